#include "parallel/step_graphs.h"

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

// Copies into `to`, which is made the first time.
void keep(Tensor& to, const Tensor& from) {
  if (!from.defined()) return;
  if (!to.defined()) to = Tensor::empty(from.shape(), from.dtype(), from.device());
  assert(to.shape() == from.shape());
  to.copy_from(from);
}

}  // namespace

std::string graphs_obstacle(const ParallelLayout& layout, DeviceKind kind) {
  if (kind != DeviceKind::cuda) return "is for train.device: cuda";
  for (const Axis axis : {Axis::pp, Axis::cp, Axis::tp, Axis::ep, Axis::etp})
    if (layout.mesh.size(axis) > 1)
      return fmt::format("needs parallel.{} 1: ranks exchange data within a microbatch", name_of(axis));
  if (layout.zero >= 2 && layout.mesh.dp > 1)
    return fmt::format("needs parallel.zero below 2: with {} gradients move from microbatch to microbatch",
                       layout.zero);
  return "";
}

StepGraphs::StepGraphs(ShardedModel& model, AdamW& optimizer, const GradientNorm& norm)
    : model_(model),
      device_(model.model().device()),
      optimizer_(optimizer),
      norm_(norm),
      first_(device_),
      others_(device_),
      sums_(device_),
      update_(device_),
      loss_(Tensor::empty({1}, DType::f64, device_)) {
  const double one = 1;
  one_ = Tensor::from_host(&one, {1}, DType::f64, device_);
  model_.tell_buckets_late();
}

void StepGraphs::take(const Batch& batch) {
  keep(batch_.tokens, batch.tokens);
  keep(batch_.positions, batch.positions);
  keep(batch_.doc_start, batch.doc_start);
  keep(batch_.targets, batch.targets);
}

Tensor StepGraphs::run_microbatches(const Load& load, std::int64_t count, std::int64_t per_group,
                                    const Tensor& inverse_count) {
  Tensor losses = Tensor::empty({count}, DType::f64, device_);
  keep(inverse_count_, inverse_count);
  for (Parameter* parameter : model_.parameters())
    parameter->view(ViewKind::compute);  // once a step, not within
  for (std::int64_t m = 0; m < count; ++m) {
    take(load(static_cast<std::size_t>(m)));
    RepeatedWork& work = m % per_group == 0 ? first_ : others_;
    work.run([this] {
      const Tensor loss = model_.loss(model_.hidden({}, batch_), batch_, inverse_count_);
      loss_.copy_from(loss.detach().view({1}));
      backward(std::span(&loss, 1), std::span(&one_, 1), {}, nullptr);
    });
    losses.narrow(0, m, 1).copy_from(loss_);
    model_.microbatch_done();
  }
  return losses;
}

const Tensor& StepGraphs::update(const Tensor& loss, const Tensor& over, double lr, double max_norm) {
  sums_.run([this] { keep(own_sums_, norm_.own_sums()); });
  keep(step_loss_, loss);
  keep(square_sum_, norm_.combine(own_sums_));
  optimizer_.set_rates(lr, max_norm);
  update_.run([&] { optimizer_.apply(step_loss_, square_sum_, over); });
  optimizer_.mark_changed();
  return optimizer_.report();
}

}  // namespace tessera
