#include <algorithm>
#include <limits>

#include "core/base/error.h"
#include "parallel/pipeline/schedule.h"

namespace tessera {
namespace {

using Step = PipelineStep;
constexpr double never = -1;

// When each piece of work ended; `never` before that.
class Clock {
 public:
  explicit Clock(const PipelineShape& shape)
      : microbatches_(shape.microbatches),
        forward_(size(shape), never),
        input_(size(shape), never),
        weight_(size(shape), never) {}
  double& forward(int chunk, int microbatch) { return forward_[at(chunk, microbatch)]; }
  double& input(int chunk, int microbatch) { return input_[at(chunk, microbatch)]; }
  double& weight(int chunk, int microbatch) { return weight_[at(chunk, microbatch)]; }

 private:
  static std::size_t size(const PipelineShape& shape) {
    return static_cast<std::size_t>(shape.chunks()) * static_cast<std::size_t>(shape.microbatches);
  }
  std::size_t at(int chunk, int microbatch) const {
    return static_cast<std::size_t>(chunk) * static_cast<std::size_t>(microbatches_) +
           static_cast<std::size_t>(microbatch);
  }
  int microbatches_;
  std::vector<double> forward_, input_, weight_;
};

class Simulation {
 public:
  Simulation(const PipelineSchedule& schedule, const PipelineCosts& costs)
      : schedule_(schedule),
        shape_(schedule.shape),
        costs_(costs),
        ends_(shape_),
        next_(schedule.actions.size(), 0),
        now_(schedule.actions.size(), 0),
        work_(schedule.actions.size(), 0),
        live_(schedule.actions.size(), 0),
        report_{0, {}, std::vector<int>(schedule.actions.size(), 0)} {}

  PipelineReport run() {
    if (static_cast<int>(schedule_.actions.size()) != shape_.stages)
      fail("a schedule of {} stages has {} lists", shape_.stages, schedule_.actions.size());
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t stage = 0; stage < next_.size(); ++stage)
        while (advance(stage)) moved = true;
    }
    check_all_ran();
    check_complete();
    report_.time = *std::max_element(now_.begin(), now_.end());
    for (std::size_t stage = 0; stage < now_.size(); ++stage)
      report_.idle.push_back(report_.time - work_[stage]);
    return report_;
  }

 private:
  // Runs the stage's next action if what it needs is there.
  bool advance(std::size_t stage) {
    if (next_[stage] == schedule_.actions[stage].size()) return false;
    const PipelineAction& action = schedule_.actions[stage][next_[stage]];
    check_place(stage, action);
    const double ready = ready_at(action);
    if (ready == never) return false;
    const double begin = std::max(now_[stage], ready);
    const double cost = cost_of(action.step);
    finish(stage, action, begin + cost);
    now_[stage] = begin + cost;
    work_[stage] += cost;
    ++next_[stage];
    return true;
  }

  void check_place(std::size_t stage, const PipelineAction& action) {
    if (action.chunk < 0 || action.chunk >= shape_.chunks() || action.microbatch < 0 ||
        action.microbatch >= shape_.microbatches || action.chunk % shape_.stages != static_cast<int>(stage))
      fail("stage {}: {} does not belong there", stage, text(action));
    const bool done = action.step == Step::forward ? ends_.forward(action.chunk, action.microbatch) != never
                      : action.step == Step::backward_weight
                          ? ends_.weight(action.chunk, action.microbatch) != never
                          : ends_.input(action.chunk, action.microbatch) != never;
    if (done) fail("stage {}: {} comes twice", stage, text(action));
  }

  // When the action's inputs are there, or `never`.
  double ready_at(const PipelineAction& action) {
    const int c = action.chunk;
    const int m = action.microbatch;
    if (action.step == Step::forward) return c == 0 ? 0 : ends_.forward(c - 1, m);
    if (action.step == Step::backward_weight) return ends_.input(c, m);
    const double own = ends_.forward(c, m);
    if (c + 1 == shape_.chunks() || own == never) return own;
    const double gradient = ends_.input(c + 1, m);
    return gradient == never ? never : std::max(own, gradient);
  }

  double cost_of(Step step) const {
    switch (step) {
      case Step::forward:
        return costs_.forward;
      case Step::backward:
        return costs_.backward_input + costs_.backward_weight;
      case Step::backward_input:
        return costs_.backward_input;
      case Step::backward_weight:
        return costs_.backward_weight;
    }
    return 0;
  }

  void finish(std::size_t stage, const PipelineAction& action, double end) {
    const int c = action.chunk;
    const int m = action.microbatch;
    if (action.step == Step::forward) {
      ends_.forward(c, m) = end;
      report_.live_activations[stage] = std::max(report_.live_activations[stage], ++live_[stage]);
      return;
    }
    if (action.step != Step::backward_weight) ends_.input(c, m) = end;
    if (action.step == Step::backward_input) return;
    ends_.weight(c, m) = end;
    --live_[stage];
  }

  // Names a stage that waits for something of its own, if there is one: the others wait for it.
  void check_all_ran() {
    const PipelineAction* stuck = nullptr;
    for (std::size_t stage = 0; stage < next_.size(); ++stage) {
      if (next_[stage] == schedule_.actions[stage].size()) continue;
      const PipelineAction& action = schedule_.actions[stage][next_[stage]];
      const bool its_own =
          action.step == Step::backward_weight ||
          (action.step != Step::forward && ends_.forward(action.chunk, action.microbatch) == never);
      if (stuck == nullptr || its_own) stuck = &action;
    }
    if (stuck != nullptr)
      fail("stage {} waits for ever to begin {}", stuck->chunk % shape_.stages, text(*stuck));
  }

  void check_complete() {
    for (int c = 0; c < shape_.chunks(); ++c)
      for (int m = 0; m < shape_.microbatches; ++m) {
        if (ends_.forward(c, m) == never) fail("no stage runs {}", text({Step::forward, c, m}));
        if (ends_.input(c, m) == never) fail("no stage runs {}", text({Step::backward, c, m}));
        if (ends_.weight(c, m) == never) fail("no stage runs {}", text({Step::backward_weight, c, m}));
      }
  }

  const PipelineSchedule& schedule_;
  PipelineShape shape_;
  PipelineCosts costs_;
  Clock ends_;
  std::vector<std::size_t> next_;  // by stage: index of its next action
  std::vector<double> now_, work_;
  std::vector<int> live_;
  PipelineReport report_;
};

}  // namespace

PipelineReport check_schedule(const PipelineSchedule& schedule, const PipelineCosts& costs) {
  return Simulation(schedule, costs).run();
}

}  // namespace tessera
