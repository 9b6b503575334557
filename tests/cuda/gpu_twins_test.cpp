// Matrix products on a GPU: the kernels of libraries and tensor cores beside their plain twins, given the
// same bytes. (Attention's: gpu_attention_test.cpp; all of them against double: gpu_ops_test.cpp.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/tensor/elementwise.h"
#include "tests/seed.h"

namespace tessera::cuda {
namespace {

using Values = std::vector<float>;

class Twins {
 public:
  Twins(const char* slot, const char* kernel) : device_(make_device(DeviceKind::cuda)), slot_(slot) {
    device_->wished_kernels[slot] = kernel;
  }
  Device& device() { return *device_; }
  Tensor normal(const Shape& shape, DType dtype) {
    std::normal_distribution<float> draw;
    Values host(static_cast<std::size_t>(shape.numel()));
    for (float& x : host) x = draw(random_);
    const Tensor wide = Tensor::from_host(host.data(), shape, DType::f32, *device_);
    if (dtype == DType::f32) return wide;
    const Tensor narrow = Tensor::empty(shape, dtype, *device_);
    convert(wide, narrow);
    return narrow;
  }
  // Of what the wished kernel wrote.
  Values values(const Tensor& x) {
    EXPECT_EQ(device_->chosen_kernels[slot_], device_->wished_kernels[slot_]);
    Tensor wide = x;
    if (x.dtype() != DType::f32) {
      wide = Tensor::empty(x.shape(), DType::f32, *device_);
      convert(x, wide);
    }
    Values host(static_cast<std::size_t>(x.numel()));
    wide.to_host(host.data());
    return host;
  }

 private:
  std::unique_ptr<Device> device_;
  std::string slot_;
  std::mt19937_64 random_{test_seed()};
};

// Both sum `terms` products in fp32, in different orders: √terms units of the result's size, which is √terms
// here; and may round a bf16 result to either side.
void expect_close(const Values& got, const Values& want, std::int64_t terms, DType dtype) {
  ASSERT_EQ(got.size(), want.size());
  const double size = std::sqrt(static_cast<double>(terms));
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto expected = static_cast<double>(want[i]);
    const double rounding = dtype == DType::bf16 ? std::ldexp(std::fabs(expected), -7) : 0.0;
    const double error = std::fabs(static_cast<double>(got[i]) - expected) - rounding;
    if (!(error <= worst)) worst = error;  // NaN too
  }
  EXPECT_LE(worst, 8 * size * size * std::ldexp(1, -24));
}

struct Product {
  DType from, to;
  bool transpose_a, transpose_b, accumulate;
};

Values multiply(const char* kernel, const Product& of) {
  constexpr std::int64_t m = 200, n = 328, k = 264;
  Twins twins("matmul", kernel);
  MatmulArgs args;
  args.a = twins.normal(of.transpose_a ? Shape{k, m} : Shape{m, k}, of.from);
  args.b = twins.normal(of.transpose_b ? Shape{n, k} : Shape{k, n}, of.from);
  args.c = twins.normal({m, n}, of.to);
  args.transpose_a = of.transpose_a;
  args.transpose_b = of.transpose_b;
  args.accumulate = of.accumulate;
  matmul_kernel()(args, twins.device());
  return twins.values(args.c);
}

TEST(GpuTwins, Matmul) {
  for (const auto& [from, to] : {std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::bf16},
                                 std::pair{DType::bf16, DType::f32}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const bool accumulate : {false, true}) {
          if (accumulate && to == DType::bf16) continue;
          const Product product{from, to, transpose_a, transpose_b, accumulate};
          expect_close(multiply("cublaslt", product), multiply("plain", product), 264, to);
        }
}

Values multiply_groups(const char* kernel, GroupedProduct product, bool accumulate) {
  constexpr std::int64_t n = 136, k = 200;
  const std::vector<std::int32_t> offsets{0, 130, 130, 131, 300};  // one empty, one of a row
  const std::int64_t groups = 4;
  const std::int64_t rows = 300;
  Twins twins("grouped_matmul", kernel);
  GroupedMatmulArgs args;
  args.product = product;
  args.accumulate = accumulate;
  args.offsets = Tensor::from_host(offsets.data(), {groups + 1}, DType::i32, twins.device());
  args.a = twins.normal({rows, product == GroupedProduct::output ? k : n}, DType::bf16);
  if (product == GroupedProduct::weight_gradient) {
    args.b = twins.normal({rows, k}, DType::bf16);
    args.c = twins.normal({groups * n, k}, DType::f32);
  } else {
    args.b = twins.normal({groups * n, k}, DType::bf16);
    args.c = twins.normal({rows, product == GroupedProduct::output ? n : k}, DType::bf16);
  }
  grouped_matmul_kernel()(args, twins.device());
  return twins.values(args.c);
}

TEST(GpuTwins, GroupedMatmul) {
  const auto compare = [](GroupedProduct product, bool accumulate, DType to) {
    expect_close(multiply_groups("mma", product, accumulate), multiply_groups("plain", product, accumulate),
                 200, to);
  };
  compare(GroupedProduct::output, false, DType::bf16);
  compare(GroupedProduct::input_gradient, false, DType::bf16);
  compare(GroupedProduct::weight_gradient, false, DType::f32);
  compare(GroupedProduct::weight_gradient, true, DType::f32);
}

}  // namespace
}  // namespace tessera::cuda
