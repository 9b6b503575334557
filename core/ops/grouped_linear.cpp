#include "core/ops/grouped_linear.h"

#include "core/autograd/tape.h"

namespace tessera {

Kernel<GroupedMatmulArgs>& grouped_matmul_kernel() {
  static Kernel<GroupedMatmulArgs> slot("grouped_matmul");
  return slot;
}

Tensor grouped_linear(const Tensor& x, Parameter& weight, const Tensor& offsets) {
  const std::int64_t groups = offsets.numel() - 1;
  assert(weight.shape()[0] % groups == 0 && x.size(1) == weight.shape()[1]);
  Tensor y = Tensor::empty({x.size(0), weight.shape()[0] / groups}, x.dtype(), x.device());
  grouped_matmul_kernel()(
      {GroupedProduct::output, x.detach(), weight.view(ViewKind::compute), y, offsets, false}, x.device());
  if (!needs_record(std::span(&x, 1), true)) return y;
  Tensor* outputs[] = {&y};
  record(
      "grouped_linear", std::span(&x, 1), outputs,
      [x = x.detach(), &weight, offsets](std::span<const Tensor> gradients, const BackwardContext& context) {
        const Tensor g = gradients[0].detach();
        const Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
        grouped_matmul_kernel()(
            {GroupedProduct::input_gradient, g, weight.view(ViewKind::compute), dx, offsets, false},
            x.device());
        context.weight_task([x, &weight, offsets, g] {
          const auto sink = weight.gradient_sink();
          grouped_matmul_kernel()(
              {GroupedProduct::weight_gradient, g, x, sink.tensor, offsets, sink.accumulate}, x.device());
        });
        return std::vector<Tensor>{dx};
      });
  return y;
}

}  // namespace tessera
