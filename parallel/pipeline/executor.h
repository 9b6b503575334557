// Runs a schedule's actions on one stage: forward and backward of chunks, with what passes between them.
//
// The model's chunks belong to the caller. Collective over the ranks of the mesh; the rank's thread only.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/autograd/tape.h"
#include "parallel/mesh.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/sharded_model.h"

namespace tessera {

class PipelineExecutor {
 public:
  // `chunks`: this stage's, lowest first.
  PipelineExecutor(PipelineSchedule schedule, std::vector<ShardedModel*> chunks, const Mesh& mesh);

  // One step. `batch_of(m)` makes microbatch m, once for every chunk. Returns the loss of each microbatch,
  // f64 on the device: on the last stage this rank's share of it, elsewhere zeros. An Error names stage,
  // microbatch and action.
  using BatchOf = std::function<Batch(int microbatch)>;
  Tensor run(const BatchOf& batch_of, const Tensor& inverse_count);

 private:
  // What a microbatch leaves on a chunk between forward and backward.
  struct Live {
    Tensor input;   // a leaf, undefined in the first chunk
    Tensor output;  // hidden states, or the loss in the last chunk
    WeightTasks tasks;
  };
  void perform(const PipelineAction& action, const BatchOf& batch_of, const Tensor& inverse_count);
  void forward(const PipelineAction& action, const Batch& batch, const Tensor& inverse_count);
  void backward_input(const PipelineAction& action, WeightTasks* tasks);
  void finish(const PipelineAction& action);
  ShardedModel& chunk(int index) const {
    return *chunks_[static_cast<std::size_t>(index / schedule_.shape.stages)];
  }
  int stage_of(int chunk) const { return chunk % schedule_.shape.stages; }
  int tag(int chunk, int microbatch, bool forward) const;
  bool is_last(int chunk) const { return chunk == schedule_.shape.chunks() - 1; }

  PipelineSchedule schedule_;
  std::vector<ShardedModel*> chunks_;
  const Mesh& mesh_;
  std::map<std::pair<int, int>, Live> live_;  // by chunk and microbatch
  Shape hidden_shape_;
  Tensor losses_;
  Tensor one_;  // f64 [1]: the gradient of a loss
};

}  // namespace tessera
