// Rotary position embedding, half layout: pairs (i, i + width/2) of the first `width` dimensions of each
// head.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct RopeArgs {
  Tensor x;              // [tokens, heads, dh], last dimension contiguous; f32 or bf16
  Tensor table;          // f32 [positions, width]: cos of width/2 pairs, then sin
  Tensor positions;      // i32 [tokens]
  Tensor y;              // contiguous, shape of x; dimensions beyond width are copied
  bool inverse = false;  // rotates back: the gradient
};
Kernel<RopeArgs>& rope_kernel();

// x [B, S, heads, dh], positions I32 [B, S].
Tensor rope(const Tensor& x, const Tensor& table, const Tensor& positions);

}  // namespace tessera
