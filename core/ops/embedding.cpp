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

Tensor embedding(const Tensor& tokens, Parameter& weight) {
  const std::int64_t n = tokens.numel();
  const std::int64_t hidden = weight.shape()[1];
  const Tensor ids = tokens.view({n});
  Tensor out =
      Tensor::empty({tokens.size(0), tokens.size(1), hidden}, weight.compute_dtype(), tokens.device());
  embedding_forward_kernel()({ids, weight.view(ViewKind::compute), out.view({n, hidden})}, tokens.device());
  if (!needs_record({}, true)) return out;
  Tensor* outputs[] = {&out};
  record("embedding", {}, outputs,
         [ids, n, hidden, &weight](std::span<const Tensor> g, const BackwardContext& context) {
           context.weight_task([ids, &weight, rows = g[0].detach().view({n, hidden})] {
             const auto sink = weight.gradient_sink();
             embedding_backward_kernel()({ids, rows, sink.tensor, sink.accumulate}, ids.device());
           });
           return std::vector<Tensor>{};
         });
  return out;
}

}  // namespace tessera
