#include "parallel/tree_sum.h"

#include <bit>
#include <cassert>

#include "core/tensor/elementwise.h"

namespace tessera {

std::int64_t tree_split(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)) / 2);
}

double tree_sum(std::span<const double> values) {
  if (values.empty()) return 0;
  if (values.size() == 1) return values[0];
  const auto split = static_cast<std::size_t>(tree_split(static_cast<std::int64_t>(values.size())));
  return tree_sum(values.first(split)) + tree_sum(values.subspan(split));
}

namespace {

template <class T>
float tree_at(std::span<const T* const> parts, std::int64_t i) {
  if (parts.size() == 1) return static_cast<float>(parts[0][i]);
  const auto split = static_cast<std::size_t>(tree_split(static_cast<std::int64_t>(parts.size())));
  return tree_at(parts.first(split), i) + tree_at(parts.subspan(split), i);
}

}  // namespace

void tree_sum(std::span<const float* const> parts, float* out, std::int64_t count) {
  assert(!parts.empty());
  if (parts.size() == 2) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = parts[0][i] + parts[1][i];
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) out[i] = tree_at(parts, i);
}

void tree_sum(std::span<const bf16* const> parts, bf16* out, std::int64_t count) {
  assert(!parts.empty());
  for (std::int64_t i = 0; i < count; ++i) out[i] = bf16(tree_at(parts, i));
}

bool blocks_are_subtrees(std::int64_t groups, std::int64_t ranks) {
  if (ranks == 1) return true;
  if (groups % ranks != 0) return false;
  // One leaf a rank is the tree itself; else blocks must be whole subtrees, which aligned powers of two are.
  return std::has_single_bit(static_cast<std::uint64_t>(groups / ranks));
}

bool rounds_are_subtrees(std::int64_t groups, std::int64_t ranks) {
  return groups % ranks == 0 && (groups == ranks || std::has_single_bit(static_cast<std::uint64_t>(ranks)));
}

void TreeAccumulator::push(const Tensor& leaf) {
  ++pushed_;
  assert(pushed_ <= leaves_);
  Partial next{leaf, 1};
  // Like carries of a binary counter; the last leaf joins whatever is left, smallest first.
  while (!stack_.empty() && (stack_.back().leaves == next.leaves || pushed_ == leaves_)) {
    add_into(next.sum, stack_.back().sum);
    next.leaves += stack_.back().leaves;
    stack_.pop_back();
  }
  if (pushed_ < leaves_ && next.sum.raw() == leaf.raw()) {
    next.sum = Tensor::empty(leaf.shape(), leaf.dtype(), leaf.device());
    next.sum.copy_from(leaf);
  }
  stack_.push_back(next);
}

Tensor TreeAccumulator::finish() {
  assert(pushed_ == leaves_ && stack_.size() == 1);
  return stack_.back().sum;
}

}  // namespace tessera
