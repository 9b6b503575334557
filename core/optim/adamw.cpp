#include "core/optim/adamw.h"

#include <cmath>

#include "core/base/mutant.h"
#include "core/tensor/device.h"

namespace tessera {

Kernel<AdamWArgs>& adamw_kernel() {
  static Kernel<AdamWArgs> slot("adamw");
  return slot;
}

AdamW::AdamW(std::span<Parameter* const> parameters, const AdamWOptions& options)
    : parameters_(parameters.begin(), parameters.end()), options_(options) {
  for (const Parameter* parameter : parameters_) {
    Shape owned = parameter->shape();
    owned[0] = parameter->owned().size();
    m_.push_back(Tensor::zeros(owned, DType::f32, parameter->device()));
    v_.push_back(Tensor::zeros(owned, DType::f32, parameter->device()));
  }
}

void AdamW::step(double lr, double clip) {
  ++steps_;
  const auto t = static_cast<double>(steps_);
  const AdamWScalars now{static_cast<float>(lr), static_cast<float>(clip),
                         static_cast<float>(1 - std::pow(options_.beta1, t)),
                         static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t)))};
  if (parameters_.empty()) return;
  const Tensor scalars = Tensor::from_host(&now, {4}, DType::f32, parameters_[0]->device());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    if (parameter.owned().size() == 0) continue;
    adamw_kernel()({parameter.value(), parameter.owned_gradient(), m_[i], v_[i], scalars,
                    static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
                    static_cast<float>(options_.eps),
                    parameter.decays() || (mutant("decay_on_norms") && parameter.has_owned_gradient())
                        ? static_cast<float>(options_.weight_decay)
                        : 0.0F},
                   parameter.device());
    parameter.changed();
  }
}

}  // namespace tessera
