#include "core/optim/adamw.h"

#include <cmath>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_adamw(const AdamWArgs& args, Workspace) {
  const auto* now = args.scalars.data<float>();
  const AdamWScalars s{now[0], now[1], now[2], now[3]};
  const float keep = 1.0F - s.lr * args.decay;
  const float rate = s.lr / s.correction1;
  const float inverse2 = 1.0F / s.correction2;
  float* p = args.p.data<float>();
  const float* g = args.g.data<float>();
  float* m = args.m.data<float>();
  float* v = args.v.data<float>();
  args.p.device().threads().parallel_blocks(
      args.p.numel(), 1 << 15, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const float gradient = s.clip * g[i];
          m[i] = args.beta1 * m[i] + (1.0F - args.beta1) * gradient;
          v[i] = args.beta2 * v[i] + (1.0F - args.beta2) * gradient * gradient;
          p[i] = p[i] * keep - rate * m[i] / (std::sqrt(v[i]) * inverse2 + args.eps);
        }
      });
}

const Register<AdamWArgs> register_adamw(adamw_kernel(), {DeviceKind::cpu, "plain", run_adamw});

}  // namespace
}  // namespace tessera
