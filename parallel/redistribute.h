// Changes how ranks share an activation, with the collective that does it, forward and backward.
//
// A tensor [tokens, width] is replicated over a group, sharded by tokens (rank r holds the r-th equal share),
// or partial: the ranks' tensors add up to it. Gradients follow: each rank's gradient of a replicated tensor
// comes from its own uses, so it is partial; that of a partial one is replicated; shards stay shards. Hence
// the table of duals: a move from A to B is undone by one from dual(B) to dual(A).
//
//   shard → replicate   all-gather        backward: partial → shard
//   partial → shard     reduce-scatter    backward: shard → replicate
//   partial → replicate all-reduce        backward: partial → replicate
//
// Collective over the group; the rank's thread only.
#pragma once

#include "core/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace tessera {

enum class Placement { replicate, partial, shard };

// x as it is in `from`, as it is in `to`; recorded. Asserts that the table has the move and that tokens
// divide.
Tensor redistribute(const Tensor& x, Placement from, Placement to, ProcessGroup& group);

}  // namespace tessera
