#include "core/ops/swiglu.h"

#include "core/autograd/tape.h"

namespace tessera {
namespace {

Tensor flat(const Tensor& x) {
  return x.detach().view({x.numel() / x.size(-1), x.size(-1)});
}

}  // namespace

Kernel<SwigluForward>& swiglu_forward_kernel() {
  static Kernel<SwigluForward> slot("swiglu_forward");
  return slot;
}
Kernel<SwigluBackward>& swiglu_backward_kernel() {
  static Kernel<SwigluBackward> slot("swiglu_backward");
  return slot;
}

Tensor swiglu(const Tensor& x) {
  Shape shape = x.shape();
  assert(shape[-1] % 2 == 0 && x.is_contiguous());
  shape[-1] /= 2;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  swiglu_forward_kernel()({flat(x), flat(y)}, x.device());
  if (!needs_record(std::span(&x, 1), false)) return y;
  Tensor* outputs[] = {&y};
  record("swiglu", std::span(&x, 1), outputs,
         [x = x.detach()](std::span<const Tensor> g, const BackwardContext&) {
           const Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
           swiglu_backward_kernel()({flat(x), flat(g[0]), flat(dx)}, x.device());
           return std::vector<Tensor>{dx};
         });
  return y;
}

}  // namespace tessera
