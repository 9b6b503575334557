#include "parallel/pipeline/schedule.h"

#include <algorithm>

#include "core/base/error.h"

namespace tessera {
namespace {

using Step = PipelineStep;

void check_shape(const PipelineShape& shape) {
  if (shape.stages < 1 || shape.virtual_stages < 1 || shape.microbatches < 1)
    fail_usage("a pipeline of {} stages, {} virtual stages and {} microbatches cannot be", shape.stages,
               shape.virtual_stages, shape.microbatches);
}

void need_one_virtual_stage(const PipelineShape& shape, const char* name) {
  check_shape(shape);
  if (shape.virtual_stages != 1)
    fail_usage("the {} schedule has no virtual stages; use the interleaved one for {}", name,
               shape.virtual_stages);
}

}  // namespace

std::string text(const PipelineAction& action) {
  constexpr const char* names[] = {"forward", "backward", "input gradient", "weight gradient"};
  return fmt::format("{} of microbatch {} on chunk {}", names[static_cast<int>(action.step)],
                     action.microbatch, action.chunk);
}

PipelineSchedule one_f_one_b(const PipelineShape& shape) {
  need_one_virtual_stage(shape, "1f1b");
  PipelineSchedule schedule{shape, {}};
  for (int stage = 0; stage < shape.stages; ++stage) {
    std::vector<PipelineAction> list;
    const int warmup = std::min(shape.stages - stage - 1, shape.microbatches);
    for (int m = 0; m < warmup; ++m) list.push_back({Step::forward, stage, m});
    for (int m = warmup; m < shape.microbatches; ++m) {
      list.push_back({Step::forward, stage, m});
      list.push_back({Step::backward, stage, m - warmup});
    }
    for (int m = shape.microbatches - warmup; m < shape.microbatches; ++m)
      list.push_back({Step::backward, stage, m});
    schedule.actions.push_back(std::move(list));
  }
  return schedule;
}

PipelineSchedule interleaved_one_f_one_b(const PipelineShape& shape) {
  check_shape(shape);
  const int p = shape.stages;
  const int v = shape.virtual_stages;
  if (shape.microbatches % p != 0)
    fail_usage("the interleaved schedule needs microbatches in multiples of its {} stages, not {}", p,
               shape.microbatches);
  // The n-th forward (or backward) of a stage: rounds of p microbatches go through its v chunks in turn.
  const auto chunk = [&](int n, int stage, bool forward) {
    const int turn = n / p % v;
    return (forward ? turn : v - 1 - turn) * p + stage;
  };
  const auto microbatch = [&](int n) { return n / (p * v) * p + n % p; };
  const int total = shape.microbatches * v;
  PipelineSchedule schedule{shape, {}};
  for (int stage = 0; stage < p; ++stage) {
    std::vector<PipelineAction> list;
    const int warmup = std::min(total, (p - stage - 1) * (v == 1 ? 1 : 2) + (v - 1) * p);
    for (int n = 0; n < total + warmup; ++n) {
      if (n < total) list.push_back({Step::forward, chunk(n, stage, true), microbatch(n)});
      if (n >= warmup)
        list.push_back({Step::backward, chunk(n - warmup, stage, false), microbatch(n - warmup)});
    }
    schedule.actions.push_back(std::move(list));
  }
  return schedule;
}

PipelineSchedule zero_bubble(const PipelineShape& shape) {
  need_one_virtual_stage(shape, "zero-bubble");
  PipelineSchedule schedule{shape, {}};
  for (int stage = 0; stage < shape.stages; ++stage) {
    std::vector<PipelineAction> list;
    const int warmup = std::min(shape.stages - stage - 1, shape.microbatches);
    for (int n = 0; n < shape.microbatches + warmup; ++n) {
      if (n < shape.microbatches) list.push_back({Step::forward, stage, n});
      if (n < warmup) continue;
      const int m = n - warmup;
      list.push_back({Step::backward_input, stage, m});
      if (m >= stage) list.push_back({Step::backward_weight, stage, m - stage});
    }
    for (int m = std::max(0, shape.microbatches - stage); m < shape.microbatches; ++m)
      list.push_back({Step::backward_weight, stage, m});
    schedule.actions.push_back(std::move(list));
  }
  return schedule;
}

}  // namespace tessera
