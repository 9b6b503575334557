#include "core/ops/rms_norm.h"

#include <cmath>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t block_rows = 64;

template <class T>
T* row_of(const Tensor& x, std::int64_t row) {
  return x.data<T>() + row / x.size(1) * x.stride(0) + row % x.size(1) * x.stride(1);
}

void run_forward(const RmsNormForward& args, Workspace) {
  const std::int64_t n = args.x.size(2);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* w = args.weight.data<T>();
    args.x.device().threads().parallel_blocks(
        args.inverse.numel(), block_rows, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            const T* x = row_of<T>(args.x, row);
            T* y = args.y.data<T>() + row * n;
            const float squares =
                cpu::sum(n, [x](std::int64_t i) { return cpu::load(x[i]) * cpu::load(x[i]); });
            const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(n) + args.eps);
            args.inverse.data<float>()[row] = inverse;
            for (std::int64_t i = 0; i < n; ++i)
              y[i] = T(cpu::load(w[i]) * cpu::load(T(cpu::load(x[i]) * inverse)));
          }
        });
  });
}

std::int64_t blocks_of(const RmsNormBackward& args) {
  return (args.inverse.numel() + block_rows - 1) / block_rows;
}

std::size_t backward_workspace(const RmsNormBackward& args) {
  return static_cast<std::size_t>(blocks_of(args) * args.x.size(2)) * sizeof(float);
}

// With h = x / rms: dx = (w dy − h mean(w dy h)) / rms and dw = Σ dy h, the latter per fixed block of rows
// first.
void run_backward(const RmsNormBackward& args, Workspace workspace) {
  const std::int64_t n = args.x.size(2);
  auto* partial = static_cast<float*>(workspace.address);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* w = args.weight.data<T>();
    args.x.device().threads().parallel_for(blocks_of(args), [&](std::int64_t block) {
      float* dw = partial + block * n;
      std::fill_n(dw, n, 0.0F);
      const std::int64_t end = std::min(args.inverse.numel(), (block + 1) * block_rows);
      for (std::int64_t row = block * block_rows; row < end; ++row) {
        const T* x = row_of<T>(args.x, row);
        const T* dy = args.dy.data<T>() + row * n;
        T* dx = args.dx.data<T>() + row * n;
        const float inverse = args.inverse.data<float>()[row];
        const float dot =
            cpu::sum(n, [=](std::int64_t i) { return cpu::load(w[i]) * cpu::load(dy[i]) * cpu::load(x[i]); });
        const float mean = dot * inverse * inverse / static_cast<float>(n);
        for (std::int64_t i = 0; i < n; ++i) {
          const float g = cpu::load(dy[i]);
          const float value = cpu::load(x[i]);
          dw[i] += g * value * inverse;
          dx[i] = T(inverse * (cpu::load(w[i]) * g - value * mean));
        }
      }
    });
  });
  auto* dweight = args.dweight.data<float>();
  if (!args.accumulate) std::fill_n(dweight, n, 0.0F);
  for (std::int64_t block = 0; block < blocks_of(args); ++block)
    for (std::int64_t i = 0; i < n; ++i) dweight[i] += partial[block * n + i];
}

const Register<RmsNormForward> register_forward(rms_norm_forward_kernel(),
                                                {DeviceKind::cpu, "plain", run_forward});
const Register<RmsNormBackward> register_backward(rms_norm_backward_kernel(),
                                                  {DeviceKind::cpu, "blocks", run_backward, nullptr,
                                                   backward_workspace});

}  // namespace
}  // namespace tessera
