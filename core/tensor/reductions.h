// Sums whose order is part of the mathematics, as kernel slots: over parts that ranks or groups hold, and of
// squares.
//
// The balanced tree over n leaves splits at the largest power of two below n, so aligned blocks of 2^k leaves
// are subtrees: who owns such a block sums it alone, and the sums of owners combine in the same tree.
#pragma once

#include <vector>

#include "core/tensor/kernel.h"

namespace tessera {

// Where the tree over [0, n), n > 1, splits.
std::int64_t tree_split(std::int64_t n);

inline constexpr std::size_t most_tree_parts = 64;

struct TreeSumArgs {
  std::vector<Tensor> parts;  // contiguous, one size, f32 or bf16; up to most_tree_parts
  Tensor out;                 // their sum in the tree, bf16 in fp32 and rounded once; may be one of the parts
};
Kernel<TreeSumArgs>& tree_sum_kernel();

struct SquareSumsArgs {
  Tensor x;                // f32, contiguous
  std::int64_t block = 1;  // elements
  Tensor out;  // f64 [⌈numel / block⌉]: Σ x² of each block, in double, in an order of its size alone
};
Kernel<SquareSumsArgs>& square_sums_kernel();

struct SumRunsArgs {
  Tensor x;              // f64 [n], contiguous
  Tensor order;          // i32 [m], indices of x; undefined: all of x as it lies
  std::int64_t run = 1;  // elements
  Tensor out;            // f64 [⌈m / run⌉]: the sum of each run, from its first element on; not x
};
Kernel<SumRunsArgs>& sum_runs_kernel();

// out = the tree's sum of any number of parts; bf16 is rounded once for every 64 of them.
void tree_sum(std::vector<Tensor> parts, const Tensor& out);
// Σ x² of each block of x.
void square_sums(const Tensor& x, std::int64_t block, const Tensor& out);
// The sums of runs of x, in an order given: f64 [⌈m / run⌉].
Tensor sum_runs(const Tensor& x, const Tensor& order, std::int64_t run);
// f64 [1]: the sum of f64 x, by runs of `run` elements, then of `run` of their sums, and so on: a run of 2 is
// the tree. 0 for none.
Tensor sum_by_runs(Tensor x, std::int64_t run);

}  // namespace tessera
