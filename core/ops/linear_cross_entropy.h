// Loss of the head: softmax cross-entropy of x Wᵀ, chunked over tokens, so the logits of the whole batch are
// never held.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct CrossEntropyForward {
  Tensor logits;   // f32 [n, V]
  Tensor targets;  // i32 [n], -1: not counted
  Tensor lse;      // f32 [n]: log Σ exp
  Tensor loss;     // f32 [n]: lse − logit of the target, 0 where not counted
};
Kernel<CrossEntropyForward>& cross_entropy_forward_kernel();

struct CrossEntropyBackward {
  Tensor logits;    // f32 [n, V]
  Tensor targets;   // i32 [n]
  Tensor lse;       // f32 [n]
  Tensor factor;    // f32 scalar: 1 / count
  Tensor upstream;  // f64 scalar
  Tensor dlogits;   // [n, V], f32 (may be logits itself) or bf16: (softmax − one-hot) × factor × upstream
};
Kernel<CrossEntropyBackward>& cross_entropy_backward_kernel();

struct SumLossArgs {
  Tensor loss;    // f32 [n]
  Tensor factor;  // f32 scalar
  Tensor out;     // f64 [1]: Σ loss × factor, in double
};
Kernel<SumLossArgs>& sum_loss_kernel();

// x [n, H], weight [V, H], targets I32 [n] (-1: not counted), inverse_count F32 scalar; to F64 [1], the sum
// of −log p of counted targets times inverse_count. Backward computes each chunk's logits again.
Tensor linear_cross_entropy(const Tensor& x, Parameter& weight, const Tensor& targets,
                            const Tensor& inverse_count);

}  // namespace tessera
