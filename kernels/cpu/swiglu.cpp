#include "core/ops/swiglu.h"

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_forward(const SwigluForward& args, Workspace) {
  const std::int64_t n = args.y.size(1);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.x.device().threads().parallel_blocks(args.x.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* gate = args.x.data<T>() + row * 2 * n;
        const T* up = gate + n;
        T* y = args.y.data<T>() + row * n;
        for (std::int64_t i = 0; i < n; ++i) {
          const float g = cpu::load(gate[i]);
          y[i] = T(g * cpu::sigmoid(g) * cpu::load(up[i]));
        }
      }
    });
  });
}

// d silu(g)/dg = σ(g) (1 + g (1 − σ(g))).
void run_backward(const SwigluBackward& args, Workspace) {
  const std::int64_t n = args.dy.size(1);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.x.device().threads().parallel_blocks(args.x.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* gate = args.x.data<T>() + row * 2 * n;
        const T* up = gate + n;
        const T* dy = args.dy.data<T>() + row * n;
        T* dgate = args.dx.data<T>() + row * 2 * n;
        T* dup = dgate + n;
        for (std::int64_t i = 0; i < n; ++i) {
          const float g = cpu::load(gate[i]);
          const float sigma = cpu::sigmoid(g);
          const float d = cpu::load(dy[i]);
          dup[i] = T(d * g * sigma);
          dgate[i] = T(d * cpu::load(up[i]) * sigma * (1.0F + g * (1.0F - sigma)));
        }
      }
    });
  });
}

const Register<SwigluForward> register_forward(swiglu_forward_kernel(),
                                               {DeviceKind::cpu, "plain", run_forward});
const Register<SwigluBackward> register_backward(swiglu_backward_kernel(),
                                                 {DeviceKind::cpu, "plain", run_backward});

}  // namespace
}  // namespace tessera
