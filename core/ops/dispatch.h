// Tokens' rows in order of their experts, and back.
//
// A token has k slots; slot s = t · k + j is its j-th expert. Sorted order is by expert, then by slot.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct SortSlotsArgs {
  Tensor indices;  // i32 [T, k]: experts
  Tensor order;    // i32 [T k]: the slot at each sorted place
  Tensor inverse;  // i32 [T k]: the sorted place of each slot
  Tensor counts;   // i32 [E]: slots of each expert
};
Kernel<SortSlotsArgs>& sort_slots_kernel();

struct GatherRowsArgs {
  Tensor in;     // [rows, n]; f32 or bf16
  Tensor index;  // i32 [m]; −1: a row of zeros
  Tensor out;    // [m, n]: in[index[i] / group] × scale[index[i]]
  Tensor scale;  // f32 or undefined: 1
  std::int64_t group = 1;
};
Kernel<GatherRowsArgs>& gather_rows_kernel();

struct CombineRowsArgs {
  Tensor rows;   // [T k, n]; f32 or bf16
  Tensor index;  // i32 [T k]
  Tensor scale;  // f32 [T k] or undefined: 1
  Tensor out;    // [T, n]: Σ_j rows[index[t k + j]] × scale[t k + j], in order of j, in fp32
};
Kernel<CombineRowsArgs>& combine_rows_kernel();

struct RowDotsArgs {
  Tensor rows;   // [T k, n]
  Tensor index;  // i32 [T k]
  Tensor with;   // [T, n]
  Tensor out;    // f32 [T k]: ⟨rows[index[s]], with[s / k]⟩ in fp32
};
Kernel<RowDotsArgs>& row_dots_kernel();

struct CountOffsetsArgs {
  Tensor counts;   // i32 [n]
  Tensor offsets;  // i32 [n + 1]: sums of those before
};
Kernel<CountOffsetsArgs>& count_offsets_kernel();

struct SlotOrder {
  Tensor order, inverse;  // I32 [T k]
  Tensor counts;          // I32 [E]
};
SlotOrder sort_slots(const Tensor& indices, std::int64_t experts);

// x [T, n] to [T k, n], a row a slot, sorted. Recorded.
Tensor spread_rows(const Tensor& x, const SlotOrder& slots);
// rows [T k, n], sorted, and gates F32 [T, k] to Σ gate × row [T, n]. Recorded.
Tensor combine_rows(const Tensor& rows, const Tensor& gates, const SlotOrder& slots);
// out[i] = x[index[i]], with inverse[index[i]] = i; −1 where the other side has no such row, which then is
// one of zeros. Recorded.
Tensor permute_rows(const Tensor& x, const Tensor& index, const Tensor& inverse);

}  // namespace tessera
