#include "parallel/tree_sum.h"

#include <bit>
#include <cassert>

#include "core/tensor/elementwise.h"

namespace tessera {

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
    const MemoryScope scope(leaf.device(), MemoryUse::gradients);
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
