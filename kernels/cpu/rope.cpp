#include "core/ops/rope.h"

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_rope(const RopeArgs& args, Workspace) {
  const std::int64_t heads = args.x.size(1);
  const std::int64_t dh = args.x.size(2);
  const std::int64_t width = args.table.size(1);
  const std::int64_t half = width / 2;
  const float sign = args.inverse ? -1.0F : 1.0F;
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.x.device().threads().parallel_blocks(args.x.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t token = begin; token < end; ++token) {
        const float* c = args.table.data<float>() + args.positions.data<std::int32_t>()[token] * width;
        const float* s = c + half;
        for (std::int64_t head = 0; head < heads; ++head) {
          const T* x = args.x.data<T>() + token * args.x.stride(0) + head * args.x.stride(1);
          T* y = args.y.data<T>() + (token * heads + head) * dh;
          for (std::int64_t i = 0; i < half; ++i) {
            const float a = cpu::load(x[i]);
            const float b = cpu::load(x[i + half]);
            y[i] = T(a * c[i] - b * (sign * s[i]));
            y[i + half] = T(b * c[i] + a * (sign * s[i]));
          }
          for (std::int64_t i = width; i < dh; ++i) y[i] = x[i];
        }
      }
    });
  });
}

const Register<RopeArgs> register_rope(rope_kernel(), {DeviceKind::cpu, "plain", run_rope});

}  // namespace
}  // namespace tessera
