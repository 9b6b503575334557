// Speeds on a GPU, printed: products of a layer, and memory-bound ops beside a copy. Never fails on time.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "core/ops/attention.h"
#include "core/ops/rope.h"
#include "core/ops/swiglu.h"
#include "core/optim/adamw.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/gemm_bench.h"

namespace tessera::cuda {
namespace {

// Median milliseconds of `work`, by events, with the cache flushed before each.
double milliseconds(Device& device, const std::function<void()>& work) {
  const Tensor flush = Tensor::empty({std::int64_t{1} << 26}, DType::u8, device);
  cudaStream_t stream = native_stream(device.stream());
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  std::vector<float> times;
  for (int i = 0; i < 13; ++i) {
    device.zero(flush.raw(), flush.bytes());
    check(cudaEventRecord(begin, stream), "recording an event");
    work();
    check(cudaEventRecord(end, stream), "recording an event");
    check(cudaEventSynchronize(end), "running kernels");
    float time = 0;
    check(cudaEventElapsedTime(&time, begin, end), "timing");
    if (i >= 3) times.push_back(time);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + 5, times.end());
  return static_cast<double>(times[5]);
}

TEST(GpuSpeed, MemoryBoundOps) {
  const auto device = make_device(DeviceKind::cuda);
  const std::int64_t rows = 16384;
  const std::int64_t d = 2048;
  const auto tensor = [&](const Shape& shape, DType dtype) { return Tensor::zeros(shape, dtype, *device); };
  const Tensor x = tensor({rows, 4 * d}, DType::bf16);
  const Tensor y = tensor({rows, 4 * d}, DType::bf16);
  const Tensor wide = tensor({rows, 8 * d}, DType::bf16);
  const Tensor p = tensor({rows, d}, DType::f32);
  const Tensor g = tensor({rows, d}, DType::f32);
  const Tensor m = tensor({rows, d}, DType::f32);
  const Tensor v = tensor({rows, d}, DType::f32);
  const Tensor scalars = tensor({4}, DType::f32);
  const Tensor sums = tensor({rows}, DType::f64);
  const auto report = [&](const char* what, std::size_t bytes, const std::function<void()>& work) {
    const double time = milliseconds(*device, work);
    std::printf("%-28s %8.1f MB %8.3f ms %8.0f GB/s\n", what, static_cast<double>(bytes) / 1e6, time,
                static_cast<double>(bytes) / time / 1e6);
  };
  report("copy by the driver", 2 * x.bytes(), [&] { device->copy(y.raw(), x.raw(), x.bytes()); });
  report("add, bf16", 3 * x.bytes(), [&] { add_kernel()({x, y, y}, *device); });
  report("convert, fp32 to bf16", p.bytes() + p.bytes() / 2, [&] {
    convert_kernel()({p, x.view({4 * rows, d}).narrow(0, 0, rows)}, *device);
  });
  report("swiglu forward", wide.bytes() + x.bytes(), [&] { swiglu_forward_kernel()({wide, x}, *device); });
  report("swiglu backward", 2 * wide.bytes() + x.bytes(), [&] {
    swiglu_backward_kernel()({wide, x, wide}, *device);
  });
  report("adamw", 7 * p.bytes(), [&] {
    adamw_kernel()({p, g, m, v, scalars, 0.9F, 0.95F, 1e-8F, 0.1F}, *device);
  });
  report("sums of squares", g.bytes(), [&] { square_sums(g, d, sums); });
  report("tree sum of 4, bf16", 5 * x.bytes() / 4, [&] {
    std::vector<Tensor> parts;
    for (int i = 0; i < 4; ++i) parts.push_back(x.view({4 * rows, d}).narrow(0, i * rows, rows));
    tree_sum(parts, y.view({4 * rows, d}).narrow(0, 0, rows));
  });
}

TEST(GpuSpeed, Products) {
  const auto device = make_device(DeviceKind::cuda);
  for (const GemmRow& row : bench_gemm(*device, layer_products(16384, 2048, 3072, 8192)))
    std::printf("%-64s first %6.1f, tuned %6.1f TFLOP/s  %s\n", row.shape.c_str(), row.tflops_first,
                row.tflops_tuned, row.algorithm.c_str());
}

// TFLOP/s, of a causal mask the half that is computed; backward is 2.5 times forward.
TEST(GpuSpeed, Attention) {
  const auto& kernels = attention_backward_kernel().entries();
  if (std::none_of(kernels.begin(), kernels.end(), [](const auto& one) { return one.candidate == "cudnn"; }))
    GTEST_SKIP() << "built without cuDNN's headers";
  struct Config {
    std::int64_t batch, length, heads, kv_heads, head_size, window;
    bool documents;
  };
  for (const Config& c : {Config{8, 2048, 32, 8, 128, 0, false}, Config{4, 4096, 32, 8, 128, 0, false},
                          Config{2, 8192, 32, 8, 128, 0, false}, Config{1, 16384, 32, 8, 128, 0, false},
                          Config{4, 4096, 32, 8, 64, 0, false}, Config{4, 4096, 16, 4, 256, 0, false},
                          Config{4, 4096, 32, 8, 128, 1024, false}, Config{4, 4096, 32, 8, 128, 0, true}}) {
    const auto device = make_device(DeviceKind::cuda);
    const auto tensor = [&](std::int64_t heads) {
      return Tensor::zeros({c.batch, c.length, heads, c.head_size}, DType::bf16, *device);
    };
    AttentionInputs in{tensor(c.heads), tensor(c.kv_heads), tensor(c.kv_heads), {}, 0.1F, c.window};
    if (c.documents) in.doc_start = Tensor::zeros({c.batch, c.length}, DType::i32, *device);
    const Tensor out = tensor(c.heads);
    const Tensor dout = tensor(c.heads);
    const Tensor lse = Tensor::empty({c.batch, c.heads, c.length}, DType::f32, *device);
    const Tensor dq = tensor(c.heads);
    const Tensor dk = tensor(c.kv_heads);
    const Tensor dv = tensor(c.kv_heads);
    const auto window = static_cast<double>(c.window > 0 ? c.window : c.length);
    const auto length = static_cast<double>(c.length);
    const double seen = length * window - window * window / 2;  // pairs of a head
    const double forward = 4 * static_cast<double>(c.batch * c.heads * c.head_size) * seen;
    const auto rate = [&](double flop, const std::function<void()>& work) {
      return flop / milliseconds(*device, work) / 1e9;
    };
    const double ahead = rate(forward, [&] { attention_forward_kernel()({in, out, lse}, *device); });
    const auto back = [&](const char* kernel) {
      device->wished_kernels["attention_backward"] = kernel;
      return rate(2.5 * forward, [&] {
        attention_backward_kernel()({in, out, lse, dout, dq, dk, dv}, *device);
      });
    };
    const double fixed = back("cudnn");
    const double any = back("cudnn_any_order");
    std::printf(
        "attention %lldx%lld, heads %lld/%lld of %lld%s%s: forward %.0f, backward %.0f, in any order %.0f\n",
        static_cast<long long>(c.batch), static_cast<long long>(c.length), static_cast<long long>(c.heads),
        static_cast<long long>(c.kv_heads), static_cast<long long>(c.head_size),
        c.window > 0 ? ", window" : "", c.documents ? ", documents" : "", ahead, fixed, any);
  }
}

}  // namespace
}  // namespace tessera::cuda
