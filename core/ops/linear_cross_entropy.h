// Loss of the head: softmax cross-entropy of x Wᵀ, chunked over tokens, so the logits of the whole batch are
// never held.
#pragma once

#include <functional>

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct CrossEntropyForward {
  Tensor logits;   // f32 [n, V]
  Tensor targets;  // i32 [n], -1: not counted, below: counted, but its logit is not among these
  Tensor lse;      // f32 [n]: log Σ exp
  Tensor loss;     // f32 [n]: lse − logit of the target, 0 where it is negative
};
Kernel<CrossEntropyForward>& cross_entropy_forward_kernel();

struct CrossEntropyBackward {
  Tensor logits;    // f32 [n, V]
  Tensor targets;   // i32 [n]
  Tensor lse;       // f32 [n], over all logits if these are a part of them
  Tensor factor;    // f32 scalar: 1 / count
  Tensor upstream;  // f64 scalar
  Tensor dlogits;  // [n, V], f32 (may be logits itself) or bf16: (softmax − one-hot) × factor × upstream, 0
                   // where not counted
};
Kernel<CrossEntropyBackward>& cross_entropy_backward_kernel();

struct SumLossArgs {
  Tensor loss;    // f32 [n]
  Tensor factor;  // f32 scalar
  Tensor out;     // f64 [1]: Σ loss × factor, in double
};
Kernel<SumLossArgs>& sum_loss_kernel();

struct ShardTargetsArgs {
  Tensor targets;          // i32 [n], of the whole vocabulary
  Tensor out;              // i32 [n]: less `first` where it is within [0, rows), else -2; -1 stays
  std::int64_t first = 0;  // id of the shard's row 0
  std::int64_t rows = 0;
};
Kernel<ShardTargetsArgs>& shard_targets_kernel();

struct CombineLseArgs {
  Tensor parts;            // f32 [shards, n]
  Tensor targets;          // i32 [n], of this shard
  Tensor lse;              // f32 [n]: log Σ exp over the shards, in their order
  Tensor loss;             // f32 [n]: of this shard's logits in, of all logits out, where the target is here
  std::int64_t index = 0;  // of this shard
};
Kernel<CombineLseArgs>& combine_lse_kernel();

// x [n, H], weight [V, H], targets I32 [n] (-1: not counted), inverse_count F32 scalar; to F64 [1], the sum
// of −log p of counted targets times inverse_count. Backward computes each chunk's logits again.
Tensor linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                            const Tensor& inverse_count);

// A part of the vocabulary: which of how many, and how to see the others' sums.
struct VocabularyShard {
  std::int64_t first = 0;  // id of the weight's row 0
  std::int64_t index = 0;
  std::function<Tensor(const Tensor& lse)> gather;  // F32 [n] of this shard to [shards, n] of all
};
// The same over all shards' logits, where `weight` holds one shard's rows: the sum over the targets in this
// shard. The shards' results add up to the loss, and so do their gradients of x.
Tensor sharded_linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                                    const Tensor& inverse_count, const VocabularyShard& shard);

}  // namespace tessera
