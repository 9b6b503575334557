#include "core/ops/linear_cross_entropy.h"

#include <algorithm>

#include "core/autograd/tape.h"
#include "core/ops/linear.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

// Tokens whose logits, in fp32, are held at a time: a function of the vocabulary and the kind of device
// alone.
std::int64_t chunk_tokens(std::int64_t vocab, const Device& device) {
  const auto elements = static_cast<std::int64_t>(device.chunk_bytes() / sizeof(float));
  return std::clamp<std::int64_t>(elements / vocab / 64 * 64, 64, 2048);
}

Tensor chunk_logits(const Tensor& x, Parameter& weight) {
  Tensor logits = Tensor::empty({x.size(0), weight.shape()[0]}, DType::f32, x.device());
  matmul_kernel()({x, weight.view(ViewKind::compute), logits, false, true, false}, x.device());
  return logits;
}

struct Saved {
  Tensor x, targets, factor, lse;
  std::int64_t chunk;
};

// The gradient of the logits, chunk by chunk: use(rows of x, dlogits, first row).
void for_each_chunk(const Saved& saved, Parameter& weight, const Tensor& upstream,
                    const std::function<void(const Tensor&, const Tensor&, std::int64_t)>& use) {
  const std::int64_t n = saved.x.size(0);
  for (std::int64_t begin = 0; begin < n; begin += saved.chunk) {
    const std::int64_t length = std::min(saved.chunk, n - begin);
    const Tensor x = saved.x.narrow(0, begin, length);
    const Tensor logits = chunk_logits(x, weight);
    const Tensor dlogits =
        x.dtype() == DType::f32 ? logits : Tensor::empty(logits.shape(), x.dtype(), x.device());
    cross_entropy_backward_kernel()({logits, saved.targets.narrow(0, begin, length),
                                     saved.lse.narrow(0, begin, length), saved.factor, upstream, dlogits},
                                    x.device());
    use(x, dlogits, begin);
  }
}

void add_input_gradient(Parameter& weight, const Tensor& dlogits, const Tensor& dx) {
  matmul_kernel()({dlogits, weight.view(ViewKind::compute), dx, false, false, false}, dx.device());
}

void add_weight_gradient(Parameter& weight, const Tensor& x, const Tensor& dlogits) {
  const auto sink = weight.gradient_sink();
  matmul_kernel()({dlogits, x, sink.tensor, true, false, sink.accumulate}, x.device());
}

// Where weight gradients wait, each chunk's logits are computed once more for them: cheaper than to keep
// them.
Tensor run_backward(const Saved& saved, Parameter& weight, bool wants_x, const Tensor& upstream,
                    const BackwardContext& context) {
  Tensor dx;
  if (wants_x) dx = Tensor::empty(saved.x.shape(), saved.x.dtype(), saved.x.device());
  const bool waits = context.tasks != nullptr;
  for_each_chunk(saved, weight, upstream, [&](const Tensor& x, const Tensor& dlogits, std::int64_t begin) {
    if (wants_x) add_input_gradient(weight, dlogits, dx.narrow(0, begin, x.size(0)));
    if (!waits) add_weight_gradient(weight, x, dlogits);
  });
  if (waits)
    context.weight_task([saved, &weight, upstream] {
      for_each_chunk(saved, weight, upstream, [&](const Tensor& x, const Tensor& dlogits, std::int64_t) {
        add_weight_gradient(weight, x, dlogits);
      });
    });
  return dx;
}

Tensor record_loss(const Tensor& x, Parameter& weight, const Saved& saved, const Tensor& losses) {
  Tensor loss = Tensor::empty({1}, DType::f64, x.device());
  sum_loss_kernel()({losses, saved.factor, loss}, x.device());
  if (!needs_record(std::span(&x, 1), true)) return loss;
  Tensor* outputs[] = {&loss};
  record("linear_cross_entropy", std::span(&x, 1), outputs,
         [saved, &weight, wants_x = x.node() != nullptr](std::span<const Tensor> g,
                                                         const BackwardContext& context) {
           return std::vector<Tensor>{run_backward(saved, weight, wants_x, g[0].detach(), context)};
         });
  return loss;
}

// Fills saved.lse, and the loss of every token.
Tensor forward_losses(const Saved& saved, Parameter& weight) {
  const std::int64_t n = saved.x.size(0);
  Tensor losses = Tensor::empty({n}, DType::f32, saved.x.device());
  for (std::int64_t begin = 0; begin < n; begin += saved.chunk) {
    const std::int64_t length = std::min(saved.chunk, n - begin);
    const Tensor logits = chunk_logits(saved.x.narrow(0, begin, length), weight);
    cross_entropy_forward_kernel()({logits, saved.targets.narrow(0, begin, length),
                                    saved.lse.narrow(0, begin, length), losses.narrow(0, begin, length)},
                                   saved.x.device());
  }
  return losses;
}

Saved save(const Tensor& x, Parameter& weight, const Tensor& targets, const Tensor& inverse_count) {
  return {x.detach(), targets, inverse_count, Tensor::empty({x.size(0)}, DType::f32, x.device()),
          chunk_tokens(weight.shape()[0], x.device())};
}

}  // namespace

Kernel<CrossEntropyForward>& cross_entropy_forward_kernel() {
  static Kernel<CrossEntropyForward> slot("cross_entropy_forward");
  return slot;
}
Kernel<CrossEntropyBackward>& cross_entropy_backward_kernel() {
  static Kernel<CrossEntropyBackward> slot("cross_entropy_backward");
  return slot;
}
Kernel<SumLossArgs>& sum_loss_kernel() {
  static Kernel<SumLossArgs> slot("sum_loss");
  return slot;
}

Kernel<ShardTargetsArgs>& shard_targets_kernel() {
  static Kernel<ShardTargetsArgs> slot("shard_targets");
  return slot;
}
Kernel<CombineLseArgs>& combine_lse_kernel() {
  static Kernel<CombineLseArgs> slot("combine_lse");
  return slot;
}

Tensor linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                            const Tensor& inverse_count) {
  const Saved saved = save(x, weight, targets, inverse_count);
  return record_loss(x, weight, saved, forward_losses(saved, weight));
}

Tensor sharded_linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                                    const Tensor& inverse_count, const VocabularyShard& shard) {
  const Tensor local = Tensor::empty(targets.shape(), DType::i32, x.device());
  shard_targets_kernel()({targets, local, shard.first, weight.shape()[0]}, x.device());
  Saved saved = save(x, weight, local, inverse_count);
  const Tensor losses = forward_losses(saved, weight);
  const Tensor parts = shard.gather(saved.lse);
  combine_lse_kernel()({parts, local, saved.lse, losses, shard.index}, x.device());
  return record_loss(x, weight, saved, losses);
}

}  // namespace tessera
