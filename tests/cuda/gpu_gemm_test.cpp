// What choosing a product's algorithm by timing gains on a GPU over cuBLASLt's first suggestion, printed. All
// other speeds come from `tessera bench kernels`. Never fails on time.

#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/cuda/native/gemm_bench.h"

namespace tessera::cuda {
namespace {

void print_speeds(std::int64_t tokens, std::int64_t hidden, std::int64_t qkv, std::int64_t ffn) {
  const auto device = make_device(DeviceKind::cuda);
  for (const GemmRow& row : bench_gemm(*device, layer_products(tokens, hidden, qkv, ffn))) {
    std::printf("%-64s first %6.1f, tuned %6.1f TFLOP/s  %s\n", row.shape.c_str(), row.tflops_first,
                row.tflops_tuned, row.algorithm.c_str());
    EXPECT_GT(row.tflops_tuned, 0) << row.shape;
  }
}

TEST(GpuSpeed, ProductsOf1B) {
  print_speeds(16384, 2048, 3072, 8192);
}

TEST(GpuSpeed, ProductsOf8B) {
  print_speeds(8192, 4096, 6144, 14336);
}

}  // namespace
}  // namespace tessera::cuda
