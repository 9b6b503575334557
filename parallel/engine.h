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
#include "parallel/expert_balance.h"
#include "parallel/grad_norm.h"
#include "parallel/layout.h"
#include "parallel/pipeline/executor.h"
#include "parallel/reduce_groups.h"

namespace tessera {

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

  void initialize(std::uint64_t seed);
  // After weights were written from outside: makes them known to the ranks that need them.
  void weights_changed();

  // Makes microbatch i of microbatches(), its positions() only, on the device.
  using LoadBatch = std::function<Batch(std::size_t i)>;
  // Forward and backward of a step: the mean loss over its counted targets, `counted` in all; the same on
  // every rank. Gradients are then those of the whole batch.
  double run_step(const LoadBatch& load, std::int64_t counted);
  double gradient_norm() const { return (*norm_)(); }
  void update(double lr, double clip);
  // Of the last step; empty for models without experts.
  const ExpertLoad& expert_load() const { return expert_load_; }
  // Every layer's experts on this rank; for `verify`.
  std::vector<Moe*> experts() const;
  // Σ −log p over the counted targets of a batch (its positions() only), without gradients: the same on the
  // ranks that share a dp index.
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
  double combine_losses(const std::vector<double>& own) const;
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
  BalanceSpec balance_;
  ExpertLoad expert_load_;
};

}  // namespace tessera
