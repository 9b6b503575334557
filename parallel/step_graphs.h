// A step's device work as graphs of the device, where microbatches of a layout exchange nothing between
// ranks: forward and backward of a microbatch, this rank's part of the gradient norm, and the optimizer's
// update.
//
// They compute what PipelineExecutor and AdamW::step do, to the bit; the host gives the device a few pieces
// of work for each instead of thousands. Model, optimizer and norm belong to the caller and outlive this. The
// rank's thread only.
#pragma once

#include <functional>
#include <string>

#include "core/optim/adamw.h"
#include "core/tensor/repeated_work.h"
#include "parallel/grad_norm.h"
#include "parallel/layout.h"
#include "parallel/sharded_model.h"

namespace tessera {

// Why steps of this layout cannot be graphs on the device: "" if they can.
std::string graphs_obstacle(const ParallelLayout& layout, DeviceKind kind);

class StepGraphs {
 public:
  StepGraphs(ShardedModel& model, AdamW& optimizer, const GradientNorm& norm);

  // One after another: microbatch m of `load(m)`, all of one shape. Returns their losses, f64 [count].
  using Load = std::function<Batch(std::size_t microbatch)>;
  Tensor run_microbatches(const Load& load, std::int64_t count, std::int64_t per_group,
                          const Tensor& inverse_count);
  // As AdamW::step, with Σ g² of the norm; `over` stays in place. Collective.
  const Tensor& update(const Tensor& loss, const Tensor& over, double lr, double max_norm);

 private:
  void take(const Batch& batch);

  ShardedModel& model_;
  Device& device_;
  AdamW& optimizer_;
  const GradientNorm& norm_;
  // Microbatches that begin a reduce group overwrite gradients, others add to them.
  RepeatedWork first_, others_, sums_, update_;
  // What graphs read and write, in place.
  Batch batch_;
  Tensor inverse_count_;           // f32 [1]
  Tensor one_;                     // f64 [1]
  Tensor loss_;                    // f64 [1], of a microbatch
  Tensor own_sums_;                // f64, of the norm
  Tensor step_loss_, square_sum_;  // f64 [1]
};

}  // namespace tessera
