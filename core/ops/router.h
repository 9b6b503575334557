// Routing of tokens to experts: softmax in fp32, the k largest, and their weights.
//
// p = softmax(logits); a token goes to the k experts of largest p + bias, ties to the lowest index, in that
// order; their gates are p, divided by their sum if `normalize`. The balance term's gradient with respect to
// p enters in backward, so that it needs no place in the loss.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct RouteForward {
  Tensor logits;   // f32 [T, E]
  Tensor bias;     // f32 [E] or undefined: only chooses
  Tensor probs;    // f32 [T, E]
  Tensor indices;  // i32 [T, k]; written if `choose`, else read
  Tensor gates;    // f32 [T, k]
  bool normalize = false;
  bool choose = true;
};
Kernel<RouteForward>& route_forward_kernel();

// Which row of a [rows, E] tensor a token belongs to: (first + t) / length.
struct TokenRows {
  std::int64_t first = 0, length = 1;
};

struct RouteBackward {
  Tensor probs, indices;
  Tensor dgates;   // f32 [T, k]
  Tensor balance;  // f32 [rows, E] or undefined: the balance term's gradient with respect to p
  TokenRows rows;
  Tensor dlogits;  // f32 [T, E]
  bool normalize = false;
};
Kernel<RouteBackward>& route_backward_kernel();

struct CountChoicesArgs {
  Tensor indices;  // i32 [T, k]
  TokenRows rows;
  Tensor counts;  // f32 or f64 [rows, E]: added to
};
Kernel<CountChoicesArgs>& count_choices_kernel();

struct BalanceSumArgs {
  Tensor probs, balance;
  TokenRows rows;
  Tensor out;  // f64 [1]: added to it: Σ over tokens and experts of p × balance of the token's row
};
Kernel<BalanceSumArgs>& balance_sum_kernel();

// x [T, H] in the compute dtype, weight [E, H]; to F32 [T, E], computed in fp32.
Tensor router_logits(const Tensor& x, Parameter& weight);

struct Routing {
  Tensor probs;    // F32 [T, E], off the tape
  Tensor indices;  // I32 [T, k]
  Tensor gates;    // F32 [T, k]
};
struct RouteOptions {
  std::int64_t k = 1;
  bool normalize = false;
  Tensor bias;
};
// `chosen`: indices to use instead of the largest; undefined: choose. Nothing is recorded.
Routing route(const Tensor& logits, const RouteOptions& options, const Tensor& chosen);
// The gates, recorded; `balance` undefined: no balance term.
Tensor route_gates(const Tensor& logits, const Routing& routing, bool normalize, const Tensor& balance,
                   TokenRows rows);

}  // namespace tessera
