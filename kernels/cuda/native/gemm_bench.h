// How fast dense products are, and what choosing algorithms by timing gains.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/native/gemm.h"

namespace tessera::cuda {

struct GemmRow {
  std::string shape;
  double tflops_first = 0;  // cuBLASLt's first suggestion; 2mnk FLOP
  double tflops_tuned = 0;  // the fastest of its suggestions
  std::string algorithm;
};

// The products of one layer, bf16, of width d with n = q + k + v columns of attention and an FFN of f, for so
// many tokens: forward, input gradients, and weight gradients into fp32.
std::vector<GemmKey> layer_products(std::int64_t tokens, std::int64_t d, std::int64_t qkv, std::int64_t f);

// Times each on random data with a cold cache; choices are neither read nor kept. Throws Error where memory
// does not suffice.
std::vector<GemmRow> bench_gemm(Device& device, std::span<const GemmKey> products);

}  // namespace tessera::cuda
