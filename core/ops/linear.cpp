#include "core/ops/linear.h"

#include "core/autograd/tape.h"

namespace tessera {
namespace {

Tensor rows_of(const Tensor& x) {
  return x.detach().view({x.numel() / x.size(-1), x.size(-1)});
}

Shape with_last(Shape shape, std::int64_t size) {
  shape[-1] = size;
  return shape;
}

void add_weight_gradient(Parameter& weight, Parameter* bias, const Tensor& x, const Tensor& g) {
  const auto sink = weight.gradient_sink();
  matmul_kernel()({g, x, sink.tensor, true, false, sink.accumulate}, x.device());  // [out, in] = gᵀ x
  if (bias == nullptr) return;
  const auto bias_sink = bias->gradient_sink();
  sum_rows_kernel()({g, bias_sink.tensor, bias_sink.accumulate}, x.device());
}

}  // namespace

Kernel<MatmulArgs>& matmul_kernel() {
  static Kernel<MatmulArgs> slot("matmul");
  return slot;
}
Kernel<AddBiasArgs>& add_bias_kernel() {
  static Kernel<AddBiasArgs> slot("add_bias");
  return slot;
}
Kernel<SumRowsArgs>& sum_rows_kernel() {
  static Kernel<SumRowsArgs> slot("sum_rows");
  return slot;
}

Tensor linear(const Tensor& x, Parameter& weight, Parameter* bias) {
  assert(x.size(-1) == weight.shape()[1] && x.is_contiguous() && x.dtype() == weight.compute_dtype());
  Tensor y = Tensor::empty(with_last(x.shape(), weight.shape()[0]), x.dtype(), x.device());
  matmul_kernel()({rows_of(x), weight.view(ViewKind::compute), rows_of(y), false, true, false}, x.device());
  if (bias != nullptr) add_bias_kernel()({rows_of(y), bias->view(ViewKind::compute)}, x.device());
  if (!needs_record(std::span(&x, 1), true)) return y;
  Tensor* outputs[] = {&y};
  record(
      "linear", std::span(&x, 1), outputs,
      [x = x.detach(), wants_x = x.node() != nullptr, &weight, bias](std::span<const Tensor> gradients,
                                                                     const BackwardContext& context) {
        const Tensor g = rows_of(gradients[0]);
        Tensor dx;
        if (wants_x) {
          dx = Tensor::empty(x.shape(), x.dtype(), x.device());
          matmul_kernel()({g, weight.view(ViewKind::compute), rows_of(dx), false, false, false}, x.device());
        }
        context.weight_task(
            [&weight, bias, rows = rows_of(x), g] { add_weight_gradient(weight, bias, rows, g); });
        return std::vector<Tensor>{dx};
      });
  return y;
}

Tensor add_bias(const Tensor& x, Parameter* bias) {
  if (bias == nullptr) return x;
  add_bias_kernel()({rows_of(x), bias->view(ViewKind::compute)}, x.device());
  Tensor y = x.detach();
  if (!needs_record(std::span(&x, 1), true)) return y;
  Tensor* outputs[] = {&y};
  record("add_bias", std::span(&x, 1), outputs,
         [bias](std::span<const Tensor> gradients, const BackwardContext& context) {
           context.weight_task([bias, g = rows_of(gradients[0])] {
             const auto sink = bias->gradient_sink();
             sum_rows_kernel()({g, sink.tensor, sink.accumulate}, g.device());
           });
           return std::vector<Tensor>{gradients[0].detach()};
         });
  return y;
}

Tensor linear_fp32_logits(const Tensor& x, Parameter& weight) {
  Tensor y = Tensor::empty(with_last(x.shape(), weight.shape()[0]), DType::f32, x.device());
  matmul_kernel()({rows_of(x), weight.view(ViewKind::compute), rows_of(y), false, true, false}, x.device());
  return y;
}

}  // namespace tessera
