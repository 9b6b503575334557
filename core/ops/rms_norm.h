// y = w ⊙ x / √(mean x² + ε) over the last dimension; statistics in fp32, the normalised value rounded to x's
// dtype before it is multiplied by w, as transformers does.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct RmsNormForward {
  Tensor x;        // [outer, inner, n], last dimension contiguous, others with any stride; f32 or bf16
  Tensor weight;   // [n], dtype of x
  Tensor y;        // contiguous, shape of x
  Tensor inverse;  // f32 [outer · inner]: 1/√(mean x² + ε), for backward
  float eps = 0;
};
Kernel<RmsNormForward>& rms_norm_forward_kernel();

struct RmsNormBackward {
  Tensor x, weight, inverse;  // as in forward
  Tensor dy;                  // contiguous, shape of x
  Tensor dx;                  // contiguous, shape of x
  Tensor dweight;             // f32 [n]
  bool accumulate = false;    // into dweight
};
Kernel<RmsNormBackward>& rms_norm_backward_kernel();

// x of any rank up to 4; leading dimensions but the last two must be contiguous among themselves.
Tensor rms_norm(const Tensor& x, Parameter& weight, float eps);

}  // namespace tessera
