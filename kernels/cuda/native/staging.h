// Host memory on its way to a GPU, through pinned slots, so that the host need not wait for the copy.
//
// The rank's thread only; goes before its stream does.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace tessera::cuda {

class Staging {
 public:
  // `wait` returns once the event has come, or throws.
  Staging(cudaStream_t stream, std::function<void(cudaEvent_t)> wait)
      : stream_(stream), wait_(std::move(wait)) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // `from` may be changed on return. Waits only where all slots are on their way.
  void copy(void* to, const void* from, std::size_t bytes);

 private:
  // A step sends some tensors of token ids for each microbatch, and a few numbers.
  static constexpr std::size_t slot_bytes = std::size_t{256} << 10;
  static constexpr std::size_t slots = 64;
  struct Slot {
    void* memory = nullptr;
    cudaEvent_t sent = nullptr;
  };
  void make_slots();

  cudaStream_t stream_;
  std::function<void(cudaEvent_t)> wait_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
};

}  // namespace tessera::cuda
