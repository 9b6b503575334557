#include "core/optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_adamw(const AdamWArgs& args, Workspace) {
  const auto* now = args.scalars.data<float>();
  const AdamWScalars s{now[0], now[1], now[2], now[3]};
  if (std::isnan(s.clip)) return;
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

void run_update_scalars(const UpdateScalarsArgs& args, Workspace) {
  const double loss = *args.loss.data<double>();
  const double norm = std::sqrt(*args.squares.data<double>());
  const auto* rates = args.rates.data<double>();
  bool fine = std::isfinite(loss) && std::isfinite(norm);
  for (std::int64_t i = 0; args.over.defined() && i < args.over.numel(); ++i)
    fine = fine && !(args.over.data<double>()[i] > 0);
  auto* steps = args.steps.data<double>();
  if (fine) *steps += 1;
  const double most = rates[1];
  const double clip = most > 0 ? std::min(1.0, most / (norm + 1e-6)) : 1.0;
  auto* scalars = args.scalars.data<float>();
  scalars[0] = static_cast<float>(rates[0]);
  scalars[1] = fine ? static_cast<float>(clip) : std::numeric_limits<float>::quiet_NaN();
  scalars[2] = static_cast<float>(1 - std::pow(args.beta1, *steps));
  scalars[3] = static_cast<float>(std::sqrt(1 - std::pow(args.beta2, *steps)));
  auto* report = args.report.data<double>();
  report[0] = loss;
  report[1] = norm;
  report[2] = fine ? 1 : 0;
}

const Register<AdamWArgs> register_adamw(adamw_kernel(), {DeviceKind::cpu, "plain", run_adamw});
const Register<UpdateScalarsArgs> register_update_scalars(update_scalars_kernel(),
                                                          {DeviceKind::cpu, "plain", run_update_scalars});

}  // namespace
}  // namespace tessera
