// A model, or a pipeline chunk of one, with its parameters in buckets: one a unit (embedding, layer, head)
// and set of ranks.
//
// Tells buckets when a microbatch's gradients are complete, as soon as its weight-gradient tasks have run,
// and lets ZeRO 3 fetch a unit's values before they are used, the next unit's with them, and drop them after.
// Owns model and buckets. Collective over the ranks of a stage; the rank's thread only.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/nn/model.h"
#include "parallel/apply.h"
#include "parallel/buckets.h"
#include "parallel/grad_norm.h"

namespace tessera {

class ShardedModel {
 public:
  // Collective over the stage. The mesh outlives it.
  ShardedModel(const ModelSpec& spec, Device& device, const ModelOptions& options, const ModelPart& part,
               const Mesh& mesh, const ParallelLayout& layout);
  ShardedModel(const ShardedModel&) = delete;
  ShardedModel& operator=(const ShardedModel&) = delete;

  Model& model() { return model_; }
  // Those that an optimizer steps, on this rank: all but shared copies.
  std::vector<Parameter*> parameters() const { return model_.parameters(); }

  void initialize(std::uint64_t seed);
  // After values changed: all ranks get to see them.
  void publish();

  void start_step(const GroupCount& count);
  // The model's parts, on the tape: hidden states, and the loss of the last chunk.
  Tensor hidden(const Tensor& x, const Batch& batch) { return model_.hidden(x, batch); }
  Tensor loss(const Tensor& x, const Batch& batch, const Tensor& inverse_count);
  // To be called when a microbatch's backward is over, weight gradients included.
  void microbatch_done();
  // From now on backward tells buckets nothing, as it may run without the host: microbatch_done() does.
  void tell_buckets_late() { tells_late_ = true; }
  void finish_step();

  // Buckets of the embedding matrix and of a tied head's copy, where they are here and there is such a copy.
  Bucket* tied_embedding() { return tied_embedding_; }
  Bucket* tied_head() { return tied_head_; }
  // Segments whose owned rows this rank speaks for.
  std::vector<SegmentOf> spoken_for() const;

 private:
  struct Unit {
    Module* module = nullptr;
    std::vector<Bucket*> buckets;
  };
  void mark_done(const std::vector<Bucket*>& buckets);
  Bucket* add_bucket(Unit& unit, std::vector<Parameter*> parameters);
  void add_embedding();
  void add_layer(Layer& layer);
  void add_head();
  void install_hooks();
  Tensor marked(const Tensor& x, std::size_t unit);
  void fetch_ahead(std::size_t unit);
  ReplicaGroups ranks_of(const std::vector<Parameter*>& parameters);

  Model model_;
  const Mesh& mesh_;
  int zero_;
  bool tells_late_ = false;
  std::unique_ptr<ProcessGroup> same_heads_;
  std::map<Layout::Ranks, std::vector<std::int64_t>> spoken_for_;
  std::vector<std::unique_ptr<Bucket>> buckets_;
  std::vector<Unit> units_;
  Bucket* tied_embedding_ = nullptr;
  Bucket* tied_head_ = nullptr;
};

}  // namespace tessera
