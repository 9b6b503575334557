// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in fp32, as torch.optim.AdamW computes it.
//
// Owns the moments of the parameters it is given, which outlive it. The rank's thread only.
#pragma once

#include <span>
#include <vector>

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

// What changes from step to step, as a tensor so that a captured graph stays valid: f32 [4].
struct AdamWScalars {
  float lr;
  float clip;         // the gradient is multiplied by it
  float correction1;  // 1 − β1^t
  float correction2;  // √(1 − β2^t)
};

// g' = clip g; m = β1 m + (1 − β1) g'; v = β2 v + (1 − β2) g'²;
// p = p (1 − lr decay) − lr (m / correction1) / (√v / correction2 + ε).
struct AdamWArgs {
  Tensor p, g, m, v;  // f32, one shape
  Tensor scalars;     // AdamWScalars
  float beta1, beta2, eps, decay;
};
Kernel<AdamWArgs>& adamw_kernel();

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

class AdamW {
 public:
  AdamW(std::span<Parameter* const> parameters, const AdamWOptions& options);

  // One update of every parameter's owned rows from their gradients.
  void step(double lr, double clip);

  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  std::span<Parameter* const> parameters() const { return parameters_; }
  const Tensor& first_moment(std::size_t i) const { return m_[i]; }
  const Tensor& second_moment(std::size_t i) const { return v_[i]; }

 private:
  std::vector<Parameter*> parameters_;
  AdamWOptions options_;
  std::vector<Tensor> m_, v_;  // f32, by parameter
  std::int64_t steps_ = 0;
};

}  // namespace tessera
