#include "core/ops/router.h"

#include "core/autograd/tape.h"
#include "core/ops/linear.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

Tensor in_fp32(const Tensor& x) {
  if (x.dtype() == DType::f32) return x.detach();
  Tensor y = Tensor::empty(x.shape(), DType::f32, x.device());
  convert(x.detach(), y);
  return y;
}

}  // namespace

Kernel<RouteForward>& route_forward_kernel() {
  static Kernel<RouteForward> slot("route_forward");
  return slot;
}
Kernel<RouteBackward>& route_backward_kernel() {
  static Kernel<RouteBackward> slot("route_backward");
  return slot;
}
Kernel<CountChoicesArgs>& count_choices_kernel() {
  static Kernel<CountChoicesArgs> slot("count_choices");
  return slot;
}
Kernel<BalanceSumArgs>& balance_sum_kernel() {
  static Kernel<BalanceSumArgs> slot("balance_sum");
  return slot;
}

Tensor router_logits(const Tensor& x, Parameter& weight) {
  Device& device = x.device();
  Tensor logits = Tensor::empty({x.size(0), weight.shape()[0]}, DType::f32, device);
  matmul_kernel()({in_fp32(x), in_fp32(weight.view(ViewKind::compute)), logits, false, true, false}, device);
  if (!needs_record(std::span(&x, 1), true)) return logits;
  Tensor* outputs[] = {&logits};
  record("router_logits", std::span(&x, 1), outputs,
         [x = x.detach(), &weight](std::span<const Tensor> g, const BackwardContext& context) {
           Device& on = x.device();
           const Tensor dx = Tensor::empty(x.shape(), DType::f32, on);
           matmul_kernel()({g[0].detach(), in_fp32(weight.view(ViewKind::compute)), dx, false, false, false},
                           on);
           context.weight_task([x, &weight, g = g[0].detach()] {
             const auto sink = weight.gradient_sink();
             matmul_kernel()({g, in_fp32(x), sink.tensor, true, false, sink.accumulate}, x.device());
           });
           if (x.dtype() == DType::f32) return std::vector<Tensor>{dx};
           Tensor rounded = Tensor::empty(x.shape(), x.dtype(), on);
           convert(dx, rounded);
           return std::vector<Tensor>{rounded};
         });
  return logits;
}

Routing route(const Tensor& logits, const RouteOptions& options, const Tensor& chosen) {
  Device& device = logits.device();
  const Shape slots{logits.size(0), options.k};
  Routing routing{Tensor::empty(logits.shape(), DType::f32, device),
                  chosen.defined() ? chosen : Tensor::empty(slots, DType::i32, device),
                  Tensor::empty(slots, DType::f32, device)};
  route_forward_kernel()({logits.detach(), options.bias, routing.probs, routing.indices, routing.gates,
                          options.normalize, !chosen.defined()},
                         device);
  return routing;
}

Tensor route_gates(const Tensor& logits, const Routing& routing, bool normalize, const Tensor& balance,
                   TokenRows rows) {
  Tensor gates = routing.gates.detach();
  if (!needs_record(std::span(&logits, 1), false)) return gates;
  Tensor* outputs[] = {&gates};
  record("route_gates", std::span(&logits, 1), outputs,
         [probs = routing.probs, indices = routing.indices, normalize, balance, rows](
             std::span<const Tensor> g, const BackwardContext&) {
           const Tensor dlogits = Tensor::empty(probs.shape(), DType::f32, probs.device());
           route_backward_kernel()({probs, indices, g[0].detach(), balance, rows, dlogits, normalize},
                                   probs.device());
           return std::vector<Tensor>{dlogits};
         });
  return gates;
}

}  // namespace tessera
