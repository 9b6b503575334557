#include "core/ops/embedding.h"

#include "core/autograd/tape.h"

namespace tessera {

Kernel<EmbeddingForward>& embedding_forward_kernel() {
  static Kernel<EmbeddingForward> slot("embedding_forward");
  return slot;
}
Kernel<EmbeddingBackward>& embedding_backward_kernel() {
  static Kernel<EmbeddingBackward> slot("embedding_backward");
  return slot;
}

Tensor embedding(const Tensor& tokens, Parameter& weight, std::int64_t first) {
  const std::int64_t n = tokens.numel();
  const std::int64_t hidden = weight.shape()[1];
  const Tensor ids = tokens.view({n});
  Tensor out = Tensor::empty({n, hidden}, weight.compute_dtype(), tokens.device());
  embedding_forward_kernel()({ids, weight.view(ViewKind::compute), out, first}, tokens.device());
  if (!needs_record({}, true)) return out;
  Tensor* outputs[] = {&out};
  record("embedding", {}, outputs,
         [ids, first, &weight](std::span<const Tensor> g, const BackwardContext& context) {
           context.weight_task([ids, first, &weight, rows = g[0].detach()] {
             const auto sink = weight.gradient_sink();
             embedding_backward_kernel()({ids, rows, sink.tensor, sink.accumulate, first}, ids.device());
           });
           return std::vector<Tensor>{};
         });
  return out;
}

}  // namespace tessera
