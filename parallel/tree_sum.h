// The order in which partial sums combine: one balanced binary tree over the global index of the reduce
// group.
//
// A tree over n leaves splits at the largest power of two below n, so aligned blocks of 2^k leaves are
// subtrees: a rank that owns such a block sums it alone, and the ranks' sums combine in the same tree as if
// there were one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/reductions.h"

namespace tessera {

// Whether rounds of `ranks` leaves, one of each, are subtrees of `groups` leaves.
bool rounds_are_subtrees(std::int64_t groups, std::int64_t ranks);

// Whether `ranks` equal blocks of `groups` leaves are subtrees, so that sums have the bits of one rank.
bool blocks_are_subtrees(std::int64_t groups, std::int64_t ranks);

// Sums buffers that arrive one after another, in the tree's order, holding about log2 of them. F32, one size.
class TreeAccumulator {
 public:
  // Takes the next leaf, copying it unless it is the last of `leaves`.
  explicit TreeAccumulator(std::int64_t leaves) : leaves_(leaves) {}
  void push(const Tensor& leaf);
  // The sum, in the tensor pushed last.
  Tensor finish();

 private:
  struct Partial {
    Tensor sum;
    std::int64_t leaves;
  };
  std::int64_t leaves_;
  std::int64_t pushed_ = 0;
  std::vector<Partial> stack_;
};

}  // namespace tessera
