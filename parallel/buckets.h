// Buckets: the parameters of one unit of a model (an embedding, a layer, a head) that the same ranks hold,
// with their gradients in one flat buffer, and ZeRO, which shares parameters' state out among those ranks.
//
// The ranks that hold the same parameters (dp × cp, or edp for experts) each own some whole rows of a
// bucket. A step's gradient is the sum over microbatches within a reduce group, then over groups in the tree
// of parallel/tree_sum.h, over cp, and, of parameters that tensor-parallel ranks hold alike, over those. How
// much of a bucket a rank keeps besides what it owns is its ZeRO stage:
//
//   0  values, moments and gradients of all rows
//   1  moments (and fp32 masters beside bf16 weights) of its own rows only
//   2  and gradients: full ones live from a microbatch's first contribution to the end of its group
//   3  and values: all rows are fetched when a block needs them, and dropped when it is left
//
// Sums over ranks and fetches are deferred (parallel/comm/communicator.h): they run beside other work where a
// group can do that, and at once elsewhere, with the same values.
//
// Collective over the ranks that share a stage; the rank's thread only.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/autograd/parameter.h"
#include "core/nn/module.h"
#include "parallel/mesh.h"
#include "parallel/tree_sum.h"

namespace tessera {

// How a step's microbatches reach a bucket: local groups of so many each.
struct GroupCount {
  std::int64_t groups = 1, microbatches = 1;
};

// Ranks that hold parts of a step's sum for the same rows.
struct ReplicaGroups {
  ProcessGroup* all = nullptr;          // those that share rows out, in the order of their parts
  std::vector<ProcessGroup*> stages;    // sums over them, one after another: each cuts a part into parts
  ProcessGroup* same_values = nullptr;  // tensor-parallel ranks: hold uncut parameters alike
  ProcessGroup* same_heads = nullptr;   // and this part of them the same KV heads; null if there are none
};

class Bucket {
 public:
  // `parameters` outlive the bucket; a shared copy (Parameter::share) has gradients only.
  // `spoken_for`: elements that each of the ranks speaks for already, where all hold the same; added to.
  Bucket(std::vector<Parameter*> parameters, const ReplicaGroups& ranks, int zero,
         std::vector<std::int64_t>& spoken_for);
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // Whether this rank speaks for its owned rows of a segment, of which other ranks may hold copies.
  bool speaks_for(const Parameter& parameter, const Segment& segment) const;

  void start_step(const GroupCount& count);
  // For microbatches whose backward ran without the host (StepGraphs): what the first of them wrote has been
  // written again.
  void note_written();
  // One more microbatch's gradients are in; at the end of a group they are summed, where ZeRO wants it.
  void microbatch_done();
  // Sums what is left; owned gradients are those of the step after await_sum().
  void finish_step();
  void await_sum();
  // The sum of the step of owned rows, flat: equal layouts for buckets of equal shapes.
  const Tensor& owned_sum() const { return owned_sum_; }

  // Makes new values of owned rows known to all ranks, after await_fetched().
  void publish();
  // ZeRO 3: all rows' values, while a block computes, after await_fetched().
  void fetch();
  void await_fetched();
  void drop();
  bool can_drop() const { return zero_ == 3; }

 private:
  struct Place {
    std::int64_t begin = 0, end = 0;  // in the flat buffer
  };
  void lay_out();
  void cut();
  void choose_speakers(std::vector<std::int64_t>& spoken_for);
  void bind_values();
  void make_gradient();
  void finish_group();
  void sum_over_tensor_ranks();
  void sum_over_replicas(const Tensor& flat, const std::function<void(const Tensor& owned)>& then);
  void sum_stages(const Tensor& flat, std::size_t first, Place held,
                  const std::function<void(const Tensor& owned)>& then);
  std::vector<Tensor> parts_of(const Tensor& flat) const;
  Place own() const { return {cuts_[index_], cuts_[index_ + 1]}; }
  Tensor slice(const Tensor& flat, std::size_t parameter) const;
  Tensor owned_slice(const Tensor& shard, std::size_t parameter) const;

  std::vector<Parameter*> parameters_;  // uncut ones first
  ReplicaGroups ranks_;
  int zero_;
  Device& device_;
  std::vector<Place> places_;                        // by parameter
  std::vector<RowRange> owned_;                      // by parameter
  std::map<const Segment*, std::int64_t> speakers_;  // rank among all, without ZeRO
  std::int64_t size_ = 0;                            // of the flat buffer, in elements
  std::int64_t uncut_ = 0;                           // where cut parameters begin
  std::vector<std::int64_t> cuts_;                   // parts of the flat buffer by owner
  std::size_t index_ = 0;                            // of this rank among the owners
  Tensor gradient_;                                  // F32 [size], or undefined
  Tensor owned_sum_;                                 // F32, of own()
  Tensor masters_;                                   // F32, of own(); ZeRO 3, and 1 and 2 beside bf16 weights
  Tensor views_;                                     // compute dtype [size], or undefined
  std::uint64_t fetching_ = 0;                       // deferred, of ranks_.all
  std::deque<std::pair<ProcessGroup*, std::uint64_t>> summing_;  // deferred
  GroupCount count_;
  std::int64_t microbatches_ = 0;
  std::vector<bool> written_;  // by parameter, by the first microbatch of note_written()
  std::unique_ptr<TreeAccumulator> sum_;
};

}  // namespace tessera
