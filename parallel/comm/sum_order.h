#pragma once

#include <cstdint>

namespace tessera {

// In which order sums over ranks are taken on devices whose communicators have one of their own.
enum class SumOrder : std::uint8_t {
  tree,   // parallel/tree_sum.h: the same bits on any number of data-parallel ranks
  native  // the library's: faster; bits depend on the number of ranks and how they are wired
};

}  // namespace tessera
