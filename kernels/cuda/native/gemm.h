// Dense products through cuBLASLt, with the algorithm of each shape chosen by our own timing.
//
// cuBLASLt suggests algorithms for a shape in the order it believes in; the first is often not the fastest. A
// shape met for the first time has its suggestions timed on scratch memory and the winner is kept: in memory,
// and in a file that later runs read. Only algorithms with a fixed order of summation are considered, so a
// choice gives the same bits every time; another choice may round differently, which is why choices() belong
// into checkpoints. fp32 inputs are multiplied in fp32, never in TF32.
//
// TESSERA_GEMM_TUNE=0 takes the first suggestion and leaves the file alone. TESSERA_GEMM_CACHE names the
// file; by default $XDG_CACHE_HOME/tessera/gemm.json or ~/.cache/tessera/gemm.json.
//
// The rank's thread only, on the device's own stream.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/ops/linear.h"

namespace tessera::cuda {

// What an algorithm is chosen for. Alignments are of the addresses, in bytes, and 16 where they are more: no
// kernel asks for more, and a choice should not depend on where an allocator puts a tensor.
struct GemmKey {
  std::int64_t m = 0, n = 0, k = 0;  // row-major, as in MatmulArgs
  bool transpose_a = false, transpose_b = false;
  DType a = DType::bf16, b = DType::bf16, c = DType::bf16;
  bool accumulate = false;
  bool bias = false;
  int align_a = 16, align_b = 16, align_c = 16, align_bias = 16;

  auto operator<=>(const GemmKey&) const = default;
  std::string text() const;  // "16384x2048x8192 NT BF16 BF16 F32 accumulate bias, aligned 16 16 16 16"
};
GemmKey gemm_key(const MatmulArgs& args, const Tensor& bias);

class Gemm {
 public:
  // Of the largest scratch an algorithm may use; the size NVIDIA recommends for Hopper.
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

  explicit Gemm(Device& device);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // As MatmulArgs says. Throws Error where cuBLASLt refuses. During the capture of a graph the shape must
  // have been multiplied before: timing cannot be captured.
  void matmul(const MatmulArgs& args);
  // c [m, n] += bias [n] besides, added in fp32 before the one rounding; bias has c's dtype; k > 0.
  void matmul(const MatmulArgs& args, const Tensor& bias);

  // Choices by name: library version, GPU and key; the text is an entry of the cache file. choices() are
  // those used here and those given. set_choices() come before the file's and before timing, from the next
  // product on; those of another library or GPU are kept and not used. Throws Error on a text that is none.
  using Choices = std::map<std::string, std::string>;
  Choices choices() const;
  void set_choices(const Choices& choices);

  // Times the suggestions for a shape now, neither reading nor keeping choices.
  struct Comparison {
    double first_seconds = 0;  // cuBLASLt's first suggestion
    double tuned_seconds = 0;  // the fastest
    int suggestions = 0;
    std::string algorithm;  // the fastest, for people
  };
  Comparison compare(const GemmKey& key);

 private:
  struct State;
  void run(const MatmulArgs& args, const Tensor& bias);
  std::unique_ptr<State> state_;
};

// The device's own, made when first asked for. `device` must be a cuda Device.
Gemm& gemm_of(Device& device);

}  // namespace tessera::cuda
