#include "core/optim/adamw.h"

#include "core/base/mutant.h"
#include "core/tensor/device.h"

namespace tessera {

Kernel<AdamWArgs>& adamw_kernel() {
  static Kernel<AdamWArgs> slot("adamw");
  return slot;
}

Kernel<UpdateScalarsArgs>& update_scalars_kernel() {
  static Kernel<UpdateScalarsArgs> slot("update_scalars");
  return slot;
}

AdamW::AdamW(std::span<Parameter* const> parameters, const AdamWOptions& options, Device& device)
    : parameters_(parameters.begin(), parameters.end()),
      options_(options),
      steps_(Tensor::zeros({1}, DType::f64, device)),
      rates_(Tensor::empty({2}, DType::f64, device)),
      scalars_(Tensor::empty({4}, DType::f32, device)),
      report_(Tensor::empty({3}, DType::f64, device)) {
  const MemoryScope scope(device, MemoryUse::optimizer);
  for (const Parameter* parameter : parameters_) {
    Shape owned = parameter->shape();
    owned[0] = parameter->owned().size();
    m_.push_back(Tensor::zeros(owned, DType::f32, parameter->device()));
    v_.push_back(Tensor::zeros(owned, DType::f32, parameter->device()));
  }
}

void AdamW::set_steps(std::int64_t steps) {
  const auto count = static_cast<double>(steps);
  steps_.device().copy(steps_.raw(), &count, sizeof count);
}

const Tensor& AdamW::step(const Tensor& loss, const Tensor& squares, double lr, double max_norm,
                          const Tensor& over) {
  set_rates(lr, max_norm);
  apply(loss, squares, over);
  mark_changed();
  return report_;
}

void AdamW::set_rates(double lr, double max_norm) {
  const double rates[] = {lr, max_norm};
  rates_.device().copy(rates_.raw(), rates, sizeof rates);
}

void AdamW::apply(const Tensor& loss, const Tensor& squares, const Tensor& over) {
  update_scalars_kernel()(
      {loss, squares, rates_, steps_, scalars_, report_, options_.beta1, options_.beta2, over},
      steps_.device());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    if (parameter.owned().size() == 0) continue;
    adamw_kernel()(
        {parameter.value(), parameter.owned_gradient(), m_[i], v_[i], scalars_,
         static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
         static_cast<float>(mutant("eps_of_parts") && parameter.has_owned_gradient() ? 2 * options_.eps
                                                                                     : options_.eps),
         (parameter.decays() && !(mutant("parts_do_not_decay") && parameter.has_owned_gradient())) ||
                 (mutant("decay_on_norms") && parameter.has_owned_gradient())
             ? static_cast<float>(options_.weight_decay)
             : 0.0F},
        parameter.device());
  }
}

void AdamW::mark_changed() {
  for (Parameter* parameter : parameters_) parameter->changed();
}

}  // namespace tessera
