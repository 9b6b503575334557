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
  float clip;         // the gradient is multiplied by it; NaN: nothing is to change
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

// What a step did, as numbers of a tensor: f64 [3].
struct StepReport {
  double loss;
  double norm;     // of the gradient, before clipping
  double updated;  // 1; or 0: loss or norm is not finite or rows found no room, and nothing was changed
};

// Decides an update where its gradients are, so that the host need not wait for them: the gradient is clipped
// as by torch.nn.utils.clip_grad_norm_, whose small number keeps a zero norm harmless.
struct UpdateScalarsArgs {
  Tensor loss, squares;  // f64 [1]: the step's loss, and Σ g²
  Tensor rates;          // f64 [2]: learning rate; the norm that clipping leaves, 0: any
  Tensor steps;          // f64 [1]: updates so far; one more, if this one takes place
  Tensor scalars;        // out: AdamWScalars
  Tensor report;         // out: StepReport
  double beta1, beta2;
  Tensor over = {};  // f64 [n] or undefined: a number above 0 forbids the update
};
Kernel<UpdateScalarsArgs>& update_scalars_kernel();

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

class AdamW {
 public:
  AdamW(std::span<Parameter* const> parameters, const AdamWOptions& options, Device& device);

  // One update of every parameter's owned rows from their gradients, unless loss or norm is not finite: f64
  // [1] `loss` and Σ g², the norm that clipping leaves (0: any); or a number of `over` is above 0. Gives the
  // StepReport, which may still be to come, and is good until the next update.
  const Tensor& step(const Tensor& loss, const Tensor& squares, double lr, double max_norm,
                     const Tensor& over = {});
  // The same in parts: numbers from the host; what the device does, always with the same memory; and that
  // parameters have changed.
  void set_rates(double lr, double max_norm);
  void apply(const Tensor& loss, const Tensor& squares, const Tensor& over);
  void mark_changed();
  const Tensor& report() const { return report_; }  // of the last update

  // Updates that an earlier run has made.
  void set_steps(std::int64_t steps);
  std::span<Parameter* const> parameters() const { return parameters_; }
  const Tensor& first_moment(std::size_t i) const { return m_[i]; }
  const Tensor& second_moment(std::size_t i) const { return v_[i]; }

 private:
  std::vector<Parameter*> parameters_;
  AdamWOptions options_;
  std::vector<Tensor> m_, v_;  // f32, by parameter
  Tensor steps_;               // f64 [1]
  Tensor rates_;               // f64 [2]: learning rate, largest norm
  Tensor scalars_;             // AdamWScalars
  Tensor report_;              // StepReport
};

}  // namespace tessera
