#include "core/ops/attention.h"

#include "core/autograd/tape.h"

namespace tessera {

Kernel<AttentionForward>& attention_forward_kernel() {
  static Kernel<AttentionForward> slot("attention_forward");
  return slot;
}
Kernel<AttentionBackward>& attention_backward_kernel() {
  static Kernel<AttentionBackward> slot("attention_backward");
  return slot;
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& doc_start, float scale,
                 std::int64_t window) {
  assert(q.rank() == 4 && k.shape() == v.shape() && k.size(1) >= q.size(1) && q.size(2) % k.size(2) == 0 &&
         q.size(3) == k.size(3));
  const AttentionInputs in{q.detach(), k.detach(), v.detach(), doc_start, scale, window};
  Device& device = q.device();
  Tensor out = Tensor::empty(q.shape(), q.dtype(), device);
  const Tensor lse = Tensor::empty({q.size(0), q.size(2), q.size(1)}, DType::f32, device);
  attention_forward_kernel()({in, out, lse}, device);
  const Tensor inputs[] = {q, k, v};
  if (needs_record(inputs, false)) {
    Tensor* outputs[] = {&out};
    record("attention", inputs, outputs,
           [in, saved = out.detach(), lse](std::span<const Tensor> g, const BackwardContext&) {
             Device& on = lse.device();
             const Tensor dq = Tensor::empty(in.q.shape(), in.q.dtype(), on);
             const Tensor dk = Tensor::empty(in.k.shape(), in.k.dtype(), on);
             const Tensor dv = Tensor::empty(in.v.shape(), in.v.dtype(), on);
             attention_backward_kernel()({in, saved, lse, g[0].detach(), dq, dk, dv}, on);
             return std::vector<Tensor>{dq, dk, dv};
           });
  }
  return out.view({q.size(0), q.size(1), q.size(2) * q.size(3)});
}

}  // namespace tessera
