#include <cmath>

#include "core/ops/linear_cross_entropy.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_forward(const CrossEntropyForward& args, Workspace) {
  const std::int64_t vocab = args.logits.size(1);
  args.logits.device().threads().parallel_blocks(
      args.logits.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const float* logits = args.logits.data<float>() + row * vocab;
          const float top = cpu::maximum(logits, vocab, -INFINITY);
          const float total =
              cpu::sum(vocab, [=](std::int64_t i) { return cpu::exponential(logits[i] - top); });
          const float lse = top + std::log(total);
          const std::int32_t target = args.targets.data<std::int32_t>()[row];
          args.lse.data<float>()[row] = lse;
          args.loss.data<float>()[row] = target < 0 ? 0.0F : lse - logits[target];
        }
      });
}

void run_backward(const CrossEntropyBackward& args, Workspace) {
  const std::int64_t vocab = args.logits.size(1);
  const auto factor =
      static_cast<float>(static_cast<double>(*args.factor.data<float>()) * *args.upstream.data<double>());
  cpu::visit(args.dlogits.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.logits.device().threads().parallel_blocks(
        args.logits.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            const float* logits = args.logits.data<float>() + row * vocab;
            T* out = args.dlogits.data<T>() + row * vocab;
            const std::int32_t target = args.targets.data<std::int32_t>()[row];
            if (target < 0) {
              std::fill_n(out, vocab, T(0.0F));
              continue;
            }
            const float lse = args.lse.data<float>()[row];
            const float of_target = (cpu::exponential(logits[target] - lse) - 1.0F) * factor;
            for (std::int64_t i = 0; i < vocab; ++i) out[i] = T(cpu::exponential(logits[i] - lse) * factor);
            out[target] = T(of_target);
          }
        });
  });
}

// A few thousand numbers, added in order in double.
void run_sum_loss(const SumLossArgs& args, Workspace) {
  double total = 0;
  for (std::int64_t i = 0; i < args.loss.numel(); ++i)
    total += static_cast<double>(args.loss.data<float>()[i]);
  *args.out.data<double>() = total * static_cast<double>(*args.factor.data<float>());
}

const Register<CrossEntropyForward> register_forward(cross_entropy_forward_kernel(),
                                                     {DeviceKind::cpu, "plain", run_forward});
const Register<CrossEntropyBackward> register_backward(cross_entropy_backward_kernel(),
                                                       {DeviceKind::cpu, "plain", run_backward});
const Register<SumLossArgs> register_sum_loss(sum_loss_kernel(), {DeviceKind::cpu, "plain", run_sum_loss});

}  // namespace
}  // namespace tessera
