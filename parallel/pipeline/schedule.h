// Pipeline schedules: which stage works on which microbatch, in which order, as plain data.
//
// A model is cut into stages × virtual_stages chunks; chunk c lies on stage c mod stages, so that with one
// virtual stage chunks are stages. A schedule is a list of actions for each stage. Activations and their
// gradients pass between neighbouring chunks in the order of the actions; sends do not block. Pure functions
// and plain values.
//
// Sources: 1F1B is PipeDream-flush (Narayanan et al., "Memory-efficient pipeline-parallel DNN training",
// 2021); interleaving is from Narayanan et al., "Efficient large-scale language model training on GPU
// clusters", 2021; zero bubble is ZB-H1 of Qi et al., "Zero bubble pipeline parallelism", 2023.
#pragma once

#include <string>
#include <vector>

namespace tessera {

enum class PipelineStep {
  forward,
  backward,        // gradients of the input and of the weights
  backward_input,  // gradients of the input; those of the weights wait
  backward_weight,
};

struct PipelineAction {
  PipelineStep step = PipelineStep::forward;
  int chunk = 0;
  int microbatch = 0;
  bool operator==(const PipelineAction&) const = default;
};
std::string text(const PipelineAction& action);  // "forward of microbatch 3 on chunk 1"

struct PipelineShape {
  int stages = 1;
  int virtual_stages = 1;
  int microbatches = 1;
  int chunks() const { return stages * virtual_stages; }
};

// For each stage, what it does.
struct PipelineSchedule {
  PipelineShape shape;
  std::vector<std::vector<PipelineAction>> actions;
};

// One forward, one backward: stage s holds at most stages − s microbatches.
PipelineSchedule one_f_one_b(const PipelineShape& shape);
// 1F1B over virtual stages, microbatches in rounds of `stages`, which must divide them (throws Error, usage).
PipelineSchedule interleaved_one_f_one_b(const PipelineShape& shape);
// Weight gradients put off into what would be the bubble; one virtual stage. Stage s puts off those of s
// microbatches, so that every stage holds at most `stages` of them.
PipelineSchedule zero_bubble(const PipelineShape& shape);

// How long each action takes, in any unit; a backward is a backward_input and a backward_weight.
struct PipelineCosts {
  double forward = 1, backward_input = 1, backward_weight = 1;
};

struct PipelineReport {
  double time = 0;           // of the slowest stage, from the first action to its last
  std::vector<double> idle;  // by stage: time less work
  std::vector<int>
      live_activations;  // by stage: most chunk inputs held at once, from forward to the end of backward
};

// Runs the lists against each other. Throws Error naming stage and action if an action is missing, doubled,
// on the wrong stage, in an impossible order, or never comes to run because stages wait for each other.
PipelineReport check_schedule(const PipelineSchedule& schedule, const PipelineCosts& costs = {});

}  // namespace tessera
