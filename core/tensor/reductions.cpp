#include "core/tensor/reductions.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace tessera {

Kernel<TreeSumArgs>& tree_sum_kernel() {
  static Kernel<TreeSumArgs> slot("tree_sum");
  return slot;
}
Kernel<SquareSumsArgs>& square_sums_kernel() {
  static Kernel<SquareSumsArgs> slot("square_sums");
  return slot;
}

Kernel<SumRunsArgs>& sum_runs_kernel() {
  static Kernel<SumRunsArgs> slot("sum_runs");
  return slot;
}

std::int64_t tree_split(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)) / 2);
}

void tree_sum(std::vector<Tensor> parts, const Tensor& out) {
  assert(!parts.empty() && out.is_contiguous());
  for ([[maybe_unused]] const Tensor& part : parts)
    assert(part.is_contiguous() && part.numel() == out.numel() && part.dtype() == out.dtype());
  if (out.numel() == 0) return;
  // Aligned blocks of a power of two are subtrees.
  while (parts.size() > most_tree_parts) {
    std::vector<Tensor> sums;
    for (std::size_t i = 0; i < parts.size(); i += most_tree_parts) {
      sums.push_back(Tensor::empty(out.shape(), out.dtype(), out.device()));
      const auto end = std::min(parts.size(), i + most_tree_parts);
      tree_sum_kernel()(
          {{parts.begin() + static_cast<std::ptrdiff_t>(i), parts.begin() + static_cast<std::ptrdiff_t>(end)},
           sums.back()},
          out.device());
    }
    parts = std::move(sums);
  }
  tree_sum_kernel()({std::move(parts), out}, out.device());
}

void square_sums(const Tensor& x, std::int64_t block, const Tensor& out) {
  assert(x.dtype() == DType::f32 && x.is_contiguous() && block > 0);
  assert(out.dtype() == DType::f64 && out.numel() == (x.numel() + block - 1) / block);
  if (x.numel() > 0) square_sums_kernel()({x, block, out}, x.device());
}

Tensor sum_runs(const Tensor& x, const Tensor& order, std::int64_t run) {
  assert(x.dtype() == DType::f64 && x.is_contiguous() && run > 0);
  assert(!order.defined() || (order.dtype() == DType::i32 && order.is_contiguous()));
  const std::int64_t count = order.defined() ? order.numel() : x.numel();
  Tensor out = Tensor::empty({(count + run - 1) / run}, DType::f64, x.device());
  if (count > 0) sum_runs_kernel()({x, order, run, out}, x.device());
  return out;
}

Tensor sum_by_runs(Tensor x, std::int64_t run) {
  if (x.numel() == 0) return Tensor::zeros({1}, DType::f64, x.device());
  while (x.numel() > 1) x = sum_runs(x, {}, run);
  return x.view({1});
}

}  // namespace tessera
