#include "core/ops/rms_norm.h"

#include "core/autograd/tape.h"
#include "core/ops/rows.h"
#include "core/tensor/elementwise.h"

namespace tessera {

Kernel<RmsNormForward>& rms_norm_forward_kernel() {
  static Kernel<RmsNormForward> slot("rms_norm_forward");
  return slot;
}
Kernel<RmsNormBackward>& rms_norm_backward_kernel() {
  static Kernel<RmsNormBackward> slot("rms_norm_backward");
  return slot;
}

Tensor rms_norm(const Tensor& x, Parameter& weight, float eps) {
  assert(x.size(-1) == weight.shape()[0] && x.stride(-1) == 1);
  const Tensor x3 = as_rows(x.detach());
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor inverse = Tensor::empty({x.numel() / x.size(-1)}, DType::f32, x.device());
  rms_norm_forward_kernel()({x3, weight.view(ViewKind::compute), as_rows(y), inverse, eps}, x.device());
  if (!needs_record(std::span(&x, 1), true)) return y;
  Tensor* outputs[] = {&y};
  record(
      "rms_norm", std::span(&x, 1), outputs,
      [x3, inverse, shape = x.shape(), &weight](std::span<const Tensor> g, const BackwardContext& context) {
        Tensor dx = Tensor::empty(shape, x3.dtype(), x3.device());
        const Tensor dweight = Tensor::empty(weight.shape(), DType::f32, x3.device());
        rms_norm_backward_kernel()(
            {x3, weight.view(ViewKind::compute), inverse, as_rows(g[0]), as_rows(dx), dweight, false},
            x3.device());
        context.weight_task([&weight, dweight] {
          const auto sink = weight.gradient_sink();
          if (sink.accumulate)
            add_into(sink.tensor, dweight);
          else
            Tensor(sink.tensor).copy_from(dweight);
        });
        return std::vector<Tensor>{dx};
      });
  return y;
}

}  // namespace tessera
