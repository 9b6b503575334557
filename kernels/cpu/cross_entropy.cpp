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
            if (target == -1) {
              std::fill_n(out, vocab, T(0.0F));
              continue;
            }
            const float lse = args.lse.data<float>()[row];
            // Taken before the loop: `out` may be `logits`.
            const float of_target =
                target < 0 ? 0.0F : (cpu::exponential(logits[target] - lse) - 1.0F) * factor;
            for (std::int64_t i = 0; i < vocab; ++i) out[i] = T(cpu::exponential(logits[i] - lse) * factor);
            if (target >= 0) out[target] = T(of_target);
          }
        });
  });
}

void run_shard_targets(const ShardTargetsArgs& args, Workspace) {
  for (std::int64_t i = 0; i < args.targets.numel(); ++i) {
    const std::int64_t target = args.targets.data<std::int32_t>()[i];
    const std::int64_t local = target - args.first;
    const std::int64_t result = target < 0 ? target : local >= 0 && local < args.rows ? local : -2;
    args.out.data<std::int32_t>()[i] = static_cast<std::int32_t>(result);
  }
}

void run_combine_lse(const CombineLseArgs& args, Workspace) {
  const std::int64_t shards = args.parts.size(0);
  const std::int64_t n = args.parts.size(1);
  const float* parts = args.parts.data<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    float top = parts[i];
    for (std::int64_t s = 1; s < shards; ++s) top = std::max(top, parts[s * n + i]);
    float total = 0;
    for (std::int64_t s = 0; s < shards; ++s) total += std::exp(parts[s * n + i] - top);
    const float lse = top + std::log(total);
    args.lse.data<float>()[i] = lse;
    if (args.targets.data<std::int32_t>()[i] >= 0)
      args.loss.data<float>()[i] += lse - parts[args.index * n + i];
  }
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
const Register<ShardTargetsArgs> register_shard_targets(shard_targets_kernel(),
                                                        {DeviceKind::cpu, "plain", run_shard_targets});
const Register<CombineLseArgs> register_combine_lse(combine_lse_kernel(),
                                                    {DeviceKind::cpu, "plain", run_combine_lse});
const Register<SumLossArgs> register_sum_loss(sum_loss_kernel(), {DeviceKind::cpu, "plain", run_sum_loss});

}  // namespace
}  // namespace tessera
