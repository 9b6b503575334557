// One rank's part of training under a layout: the model's chunks it holds, their gradients of a step, and the
// optimizer's update. What `train` and `verify` both run.
//
// Made and called by all ranks of the world in the same way; owns model and optimizer; device and world
// outlive it. The rank's thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/optim/adamw.h"
#include "core/tensor/mailbox.h"
#include "parallel/expert_balance.h"
#include "parallel/grad_norm.h"
#include "parallel/layout.h"
#include "parallel/pipeline/executor.h"
#include "parallel/reduce_groups.h"
#include "parallel/step_graphs.h"

namespace tessera {

// A step's numbers, the same on every rank.
struct EngineReport : StepReport {
  ExpertLoad experts;  // empty for models without
};

class Engine {
 public:
  // `reduce_groups`: of the run (parallel/reduce_groups.h). Throws Error (usage) for what does not fit.
  Engine(const ModelSpec& spec, Device& device, ProcessGroup& world, const ParallelLayout& layout,
         const ModelOptions& model, const BatchShape& batch, std::int64_t reduce_groups,
         const AdamWOptions& optimizer);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const ParallelLayout& layout() const { return layout_; }
  const Mesh& mesh() const { return mesh_; }
  const ReduceGroups& groups() const { return groups_; }
  Device& device() const { return device_; }
  const ModelSpec& spec() const { return spec_; }
  AdamW& optimizer() { return *optimizer_; }
  const std::vector<std::unique_ptr<ShardedModel>>& chunks() const { return chunks_; }
  // Positions of each row that this rank works on.
  std::vector<PositionRange> positions() const;
  // Global indices of the microbatches of a step that this rank sees.
  std::vector<std::int64_t> microbatches() const;

  // Steps from now on are graphs of the device: for layouts that graphs_obstacle() has nothing against.
  void use_graphs();

  void initialize(std::uint64_t seed);
  // After weights were written from outside: makes them known to the ranks that need them.
  void weights_changed();

  // Makes microbatch i of microbatches(), its positions() only, on the device.
  using LoadBatch = std::function<Batch(std::size_t i)>;
  // Forward and backward of a step of `counted` targets in all. Gradients are then those of the mean loss of
  // the whole batch. On a GPU the host goes on before the work is done, unless experts' buffers between
  // ranks are unbounded (parallel/experts.h).
  void run_step(const LoadBatch& load, std::int64_t counted);
  // Moves the weights, unless loss or norm is not finite or rows found no room in a buffer. `max_norm`: what
  // clipping leaves, 0: any.
  void update(double lr, double max_norm);
  // The mean loss of the last step, the same on every rank; waits for it.
  double loss() const;
  // Of the oldest update that was not asked for, the same on every rank; waits for it.
  EngineReport next_report();
  std::size_t reports_waiting() const { return reports_.waiting(); }
  // Whether the host can be a step ahead: then next_report() is best asked for after the next step.
  bool runs_ahead() const { return device_.kind() == DeviceKind::cuda; }
  // Of the last step, the same on every rank; empty for models without experts. Waits for it.
  ExpertLoad expert_load() const;
  // Every layer's experts on this rank; for `verify`.
  std::vector<Moe*> experts() const;
  // Σ −log p over the counted targets of a batch (its positions() only), without gradients: the same on the
  // ranks that share a dp index. Waits for it. Throws Error where rows found no room in experts' buffers.
  double evaluate(const Batch& batch);

  // Every parameter row that this rank speaks for: over all ranks, each row of each logical tensor once.
  struct Owned {
    std::string name;      // of the logical tensor
    Shape global;          // its shape
    std::int64_t row = 0;  // where the part begins in it
    std::int64_t column = 0;
    // F32 [rows, columns] or [rows]; of what is not trained, the weight alone.
    Tensor weight, gradient, first_moment, second_moment;
  };
  std::vector<Owned> owned() const;
  // Likewise, but all that this rank holds and updates, copies of other ranks' included.
  std::vector<Owned> held() const;

 private:
  void build(const ModelOptions& model, const AdamWOptions& optimizer);
  PipelineSchedule schedule() const;
  Tensor run_microbatches(const LoadBatch& load, const Tensor& inverse_count);
  Tensor forward(const Batch& batch);
  void lay_out_losses();
  Tensor combine_losses(const Tensor& own) const;
  void add_tied_gradients();
  std::vector<Owned> parts(const std::function<bool(const Segment*)>& wanted) const;
  Owned part_of(const Parameter& parameter, const Segment& segment, RowRange rows) const;

  ModelSpec spec_;
  Device& device_;
  ParallelLayout layout_;
  Mesh mesh_;
  BatchShape batch_;
  ReduceGroups groups_;
  std::vector<std::unique_ptr<ShardedModel>> chunks_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<GradientNorm> norm_;
  std::unique_ptr<PipelineExecutor> executor_;
  std::unique_ptr<StepGraphs> graphs_;  // null: without
  Tensor loss_order_;                   // of all ranks' groups: ranks that share one follow each other
  Tensor loss_;                         // f64 [1], of the last step
  Mailbox reports_;
  Tensor one_;  // f32 [1]
  BalanceSpec balance_;
  std::unique_ptr<ExpertBalance> experts_;  // of a model that has some
  std::unique_ptr<Mailbox> loads_;
};

}  // namespace tessera
