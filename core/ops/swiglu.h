// y = silu(gate) ⊙ up, where x holds gate and up side by side; computed in fp32.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct SwigluForward {
  Tensor x;  // [rows, 2 n]: gate then up; contiguous; f32 or bf16
  Tensor y;  // [rows, n]
};
Kernel<SwigluForward>& swiglu_forward_kernel();

struct SwigluBackward {
  Tensor x, dy, dx;
};
Kernel<SwigluBackward>& swiglu_backward_kernel();

// x [.., 2 n] contiguous to [.., n].
Tensor swiglu(const Tensor& x);

}  // namespace tessera
