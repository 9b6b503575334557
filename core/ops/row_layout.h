// Where rows lie in buffers of a fixed size: of ranks that send each other as many rows as their tokens ask
// for, in messages that do not depend on how many those are.
//
// Each of S sources has a part of B slots, which its rows fill from the first slot on, group by group; the
// slots left over are empty. Put together compactly, rows are in order of (group, source, place in the
// source). Counts and what is made of them stay on the device.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct LayOutRowsArgs {
  Tensor counts;     // i32 [S, X, M]: of source s's rows, how many are of group x: the sum of its M numbers
  Tensor offsets;    // i32 [X + 1]: where each group begins among compact rows
  Tensor to_slot;    // i32 [S B]: the slot of each compact row; −1 beyond the last
  Tensor from_slot;  // i32 [S B]: the compact row of each slot; −1 where it is empty
  // f64 [1]: raised to the rows of the largest source, where those are more than B. What is beyond B then has
  // no slot.
  Tensor over;
};
Kernel<LayOutRowsArgs>& lay_out_rows_kernel();

struct RowLayout {
  Tensor offsets, to_slot, from_slot;
};
// counts I32 [S, X, M], `capacity` B.
RowLayout lay_out_rows(const Tensor& counts, std::int64_t capacity, const Tensor& over);

}  // namespace tessera
