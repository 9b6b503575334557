// Times algorithms of one product on scratch memory with random contents and a cold cache.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/native/cublaslt.h"

namespace tessera::cuda {

class Tuner {
 public:
  // Takes the memory for operands of the key's shape, from CUDA's own pool: the device's counters, and the
  // user's tensors, are left alone. `problem` outlives it.
  Tuner(const lt::Problem& problem, const GemmKey& key, lt::Scratch workspace, cudaStream_t stream);
  ~Tuner();
  Tuner(const Tuner&) = delete;
  Tuner& operator=(const Tuner&) = delete;

  // False where there was not enough memory: nothing can be timed.
  bool ready() const { return ready_; }

  // Seconds of each, infinite for one that fails. One far behind after a first run keeps the time of that;
  // for the others it is the least of three medians of five runs. Waits for the stream.
  std::vector<double> time(std::span<const lt::Algorithm> algorithms);

 private:
  void* take(std::size_t bytes);
  void* take_random(std::int64_t elements, DType dtype);
  double run_once(const lt::Algorithm& algorithm);
  double median_of_runs(const lt::Algorithm& algorithm, int runs);

  const lt::Problem& problem_;
  lt::Scratch workspace_;
  cudaStream_t stream_;
  bool ready_ = true;
  std::vector<void*> taken_;
  lt::Operands operands_;
  lt::Scratch flush_;  // written between runs, so that no operand is in the cache
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace tessera::cuda
