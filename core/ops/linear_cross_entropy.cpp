#include "core/ops/linear_cross_entropy.h"

#include <algorithm>

#include "core/autograd/tape.h"
#include "core/ops/linear.h"

namespace tessera {
namespace {

// Tokens whose logits are held at a time: about 16 MiB of them, a function of the vocabulary alone.
std::int64_t chunk_tokens(std::int64_t vocab) {
  return std::clamp<std::int64_t>((std::int64_t{1} << 22) / vocab / 64 * 64, 64, 2048);
}

Tensor chunk_logits(const Tensor& x, Parameter& weight) {
  Tensor logits = Tensor::empty({x.size(0), weight.shape()[0]}, DType::f32, x.device());
  matmul_kernel()({x, weight.view(ViewKind::compute), logits, false, true, false}, x.device());
  return logits;
}

struct Saved {
  Tensor x, targets, factor, lse;
};

// One chunk's share of dx, and of the weight's gradient.
void backward_chunk(const Saved& saved, Parameter& weight, const Tensor& upstream, std::int64_t begin,
                    std::int64_t length, const Tensor& dx) {
  const Tensor x = saved.x.narrow(0, begin, length);
  const Tensor logits = chunk_logits(x, weight);
  const Tensor dlogits =
      x.dtype() == DType::f32 ? logits : Tensor::empty(logits.shape(), x.dtype(), x.device());
  cross_entropy_backward_kernel()({logits, saved.targets.narrow(0, begin, length),
                                   saved.lse.narrow(0, begin, length), saved.factor, upstream, dlogits},
                                  x.device());
  if (dx.defined())
    matmul_kernel()(
        {dlogits, weight.view(ViewKind::compute), dx.narrow(0, begin, length), false, false, false},
        x.device());
  const auto sink = weight.gradient_sink();
  matmul_kernel()({dlogits, x, sink.tensor, true, false, sink.accumulate}, x.device());
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

Tensor linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                            const Tensor& inverse_count) {
  const std::int64_t n = x.size(0);
  const std::int64_t chunk = chunk_tokens(weight.shape()[0]);
  Device& device = x.device();
  const Saved saved{x.detach(), targets, inverse_count, Tensor::empty({n}, DType::f32, device)};
  const Tensor losses = Tensor::empty({n}, DType::f32, device);
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    const std::int64_t length = std::min(chunk, n - begin);
    const Tensor logits = chunk_logits(saved.x.narrow(0, begin, length), weight);
    cross_entropy_forward_kernel()({logits, targets.narrow(0, begin, length),
                                    saved.lse.narrow(0, begin, length), losses.narrow(0, begin, length)},
                                   device);
  }
  Tensor loss = Tensor::empty({1}, DType::f64, device);
  sum_loss_kernel()({losses, inverse_count, loss}, device);
  if (!needs_record(std::span(&x, 1), true)) return loss;
  Tensor* outputs[] = {&loss};
  record("linear_cross_entropy", std::span(&x, 1), outputs,
         [saved, &weight, n, chunk, wants_x = x.node() != nullptr](std::span<const Tensor> g,
                                                                   const BackwardContext&) {
           Tensor dx;
           if (wants_x) dx = Tensor::empty(saved.x.shape(), saved.x.dtype(), saved.x.device());
           for (std::int64_t begin = 0; begin < n; begin += chunk)
             backward_chunk(saved, weight, g[0].detach(), begin, std::min(chunk, n - begin), dx);
           return std::vector<Tensor>{dx};
         });
  return loss;
}

}  // namespace tessera
