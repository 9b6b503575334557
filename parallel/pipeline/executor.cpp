#include "parallel/pipeline/executor.h"

#include "core/base/error.h"
#include "core/base/mutant.h"

namespace tessera {

PipelineExecutor::PipelineExecutor(PipelineSchedule schedule, std::vector<ShardedModel*> chunks,
                                   const Mesh& mesh)
    : schedule_(std::move(schedule)), chunks_(std::move(chunks)), mesh_(mesh) {
  check_schedule(schedule_);
  mesh_.group(Axis::pp).connect();
  const double one = 1;
  one_ = Tensor::from_host(&one, {1}, DType::f64, chunks_.at(0)->model().device());
}

Tensor PipelineExecutor::run(const BatchOf& batch_of, const Tensor& inverse_count) {
  losses_ = Tensor::zeros({schedule_.shape.microbatches}, DType::f64, inverse_count.device());
  const int stage = mesh_.index(Axis::pp);
  const int stages = mesh_.size(Axis::pp);
  for (const PipelineAction& action : schedule_.actions[static_cast<std::size_t>(stage)]) {
    const std::string where = stages == 1 ? text(action) : fmt::format("stage {}, {}", stage, text(action));
    mesh_.world().set_position(where);
    try {
      perform(action, batch_of, inverse_count);
    } catch (const PeerFailed&) {
      throw;
    } catch (const Error& e) {
      throw Error(fmt::format("{}: {}", where, e.what()), e.code());
    } catch (const std::exception& e) {
      throw Error(fmt::format("{}: {}", where, e.what()));
    }
  }
  return losses_;
}

void PipelineExecutor::perform(const PipelineAction& action, const BatchOf& batch_of,
                               const Tensor& inverse_count) {
  switch (action.step) {
    case PipelineStep::forward:
      forward(action, batch_of(action.microbatch), inverse_count);
      return;
    case PipelineStep::backward:
      backward_input(action, nullptr);
      finish(action);
      return;
    case PipelineStep::backward_input:
      backward_input(action, &live_.at({action.chunk, action.microbatch}).tasks);
      return;
    case PipelineStep::backward_weight:
      if (mutant("weight_task_lost") && action.microbatch == 1)
        live_.at({action.chunk, action.microbatch}).tasks.pop_front();
      for (auto& tasks = live_.at({action.chunk, action.microbatch}).tasks; !tasks.empty(); tasks.pop_front())
        tasks.front()();
      finish(action);
      return;
  }
}

// Told apart by where they go: the chunk that receives, and which way.
int PipelineExecutor::tag(int chunk, int microbatch, bool forward) const {
  return ((chunk * schedule_.shape.microbatches) + microbatch) * 2 + (forward ? 0 : 1);
}

void PipelineExecutor::forward(const PipelineAction& action, const Batch& batch,
                               const Tensor& inverse_count) {
  const auto [step, index, microbatch] = action;
  ShardedModel& model = chunk(index);
  ProcessGroup& stages = mesh_.group(Axis::pp);
  Live& live = live_[{index, microbatch}];
  hidden_shape_ = {batch.positions.numel() / mesh_.size(Axis::tp), model.model().spec().hidden_size};
  if (index > 0) {
    const Tensor x = Tensor::empty(hidden_shape_, model.model().options().compute, model.model().device());
    stages.recv(x, stage_of(index - 1), tag(index, microbatch, true));
    if (mutant("stale_activation") && microbatch == 1) Tensor(x).zero();
    live.input = as_leaf(x);
  }
  const Tensor y = model.hidden(live.input, batch);
  if (!is_last(index)) {
    stages.send(y.detach(), stage_of(index + 1), tag(index + 1, microbatch, true));
    live.output = y;
    return;
  }
  live.output = model.loss(y, batch, inverse_count);
  losses_.narrow(0, microbatch, 1).copy_from(live.output.detach().view({1}));
}

void PipelineExecutor::backward_input(const PipelineAction& action, WeightTasks* tasks) {
  const auto [step, index, microbatch] = action;
  ShardedModel& model = chunk(index);
  ProcessGroup& stages = mesh_.group(Axis::pp);
  Live& live = live_.at({index, microbatch});
  Tensor gradient;
  if (is_last(index)) {
    gradient = one_;
  } else {
    gradient = Tensor::empty(hidden_shape_, model.model().options().compute, model.model().device());
    stages.recv(gradient, stage_of(index + 1), tag(index, microbatch, false));
  }
  const Tensor output = std::move(live.output);
  live.output = Tensor();
  const Tensor leaves[] = {live.input};
  const std::vector<Tensor> gradients =
      backward(std::span(&output, 1), std::span(&gradient, 1),
               index > 0 ? std::span<const Tensor>(leaves) : std::span<const Tensor>(), tasks);
  if (index > 0) stages.send(gradients[0].detach(), stage_of(index - 1), tag(index - 1, microbatch, false));
}

void PipelineExecutor::finish(const PipelineAction& action) {
  if (mutant("gradient_overwritten") && schedule_.shape.stages > 1)
    for (Parameter* parameter : chunk(action.chunk).parameters()) parameter->clear_gradient();
  chunk(action.chunk).microbatch_done();
  live_.erase({action.chunk, action.microbatch});
}

}  // namespace tessera
