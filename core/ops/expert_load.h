// How much each expert has to do, summed over ranks, and what evens it, all on the device.
//
// A layer's load is F64 [2 + E]: the value of the balance term; the rows that one rank had for another where
// a buffer held fewer, else 0; the slots sent to each expert. Slots are whole numbers: their sums are exact
// in any order.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct CombineLoadsArgs {
  Tensor parts;    // f64 [ranks, layers, 2 + E]
  Tensor balance;  // out: f64 [layers]: summed in order of rank
  Tensor over;     // out: f64 [layers]: the largest
  Tensor slots;    // out: f64 [layers, E]: summed
};
Kernel<CombineLoadsArgs>& combine_loads_kernel();

// The gradient of transformers' balance term with respect to a token's p: factor · slots / tokens / tokens,
// slots summed over layers.
struct GlobalBalanceArgs {
  Tensor slots;           // f64 [layers, E]
  Tensor out;             // f32 [1, E]
  double factor, tokens;  // the coefficient times E; tokens of the batch times layers
};
Kernel<GlobalBalanceArgs>& global_balance_kernel();

// DeepSeek-V3's bias on choices: an expert with less than the mean load is chosen more from now on, one with
// more less.
struct MoveBiasesArgs {
  Tensor slots;    // f64 [E]
  Tensor updated;  // f64 [1]: 0: nothing is to change
  Tensor bias;     // f32 [E]
  float rate;
};
Kernel<MoveBiasesArgs>& move_biases_kernel();

}  // namespace tessera
