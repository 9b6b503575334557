// Which microbatches a data-parallel rank runs, and how their sums combine.
//
// A step's microbatches, in order, fall into equal reduce groups in contiguous blocks, and the groups onto
// ranks, in blocks or in turn. Gradients add up within a group in order of the microbatch, and over groups in
// the tree of parallel/tree_sum.h, so any number of ranks that divides the groups gives the same bits (or
// says that it does not). Plain values.
#pragma once

#include <cstdint>

namespace tessera {

struct ReduceGroups {
  std::int64_t groups = 1;        // of the run, over all ranks
  std::int64_t microbatches = 1;  // of a step, over all ranks
  std::int64_t first_group = 0;   // of this rank
  std::int64_t stride = 1;        // from one of its groups to the next
  std::int64_t local_groups = 1;
  std::int64_t group(std::int64_t g) const { return first_group + g * stride; }
  std::int64_t microbatches_per_group() const { return microbatches / groups; }
  // The global index of microbatch `i` of this rank's group `g`.
  std::int64_t microbatch(std::int64_t g, std::int64_t i) const {
    return group(g) * microbatches_per_group() + i;
  }
};

// `in_turn`: ranks take groups in turn, so that a round of one group each can be summed over ranks at once;
// otherwise each takes a block of them. Throws Error (usage), beginning with the key at fault, where
// microbatches, groups and ranks do not divide, saying what would fit.
ReduceGroups plan_reduce_groups(std::int64_t global_batch, std::int64_t micro_batch, std::int64_t groups,
                                int ranks, int rank, bool in_turn = false);

// The groups with which `ranks` ranks go on with a run of `groups`: as many where they divide a step's
// microbatches and ranks divide them; else the most below that which do, or the fewest above it, and bits
// will differ. Where no number fits, `groups`, for plan_reduce_groups to refuse.
std::int64_t groups_for_ranks(std::int64_t microbatches, std::int64_t groups, int ranks);

}  // namespace tessera
