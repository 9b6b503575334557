// y = x Wᵀ + b.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

// c [m, n] = a · b, or += when `accumulate`; row-major with the given transpositions; fp32 sums.
struct MatmulArgs {
  Tensor a;  // [m, k], or [k, m] if transpose_a; f32 or bf16; contiguous
  Tensor b;  // [k, n], or [n, k] if transpose_b; dtype of a
  Tensor c;  // [m, n]; f32, or dtype of a if not accumulate
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
};
Kernel<MatmulArgs>& matmul_kernel();

struct AddBiasArgs {
  Tensor x;     // [rows, n], changed in place
  Tensor bias;  // [n], dtype of x
};
Kernel<AddBiasArgs>& add_bias_kernel();

struct SumRowsArgs {
  Tensor x;    // [rows, n]; f32 or bf16
  Tensor out;  // f32 [n]
  bool accumulate = false;
};
Kernel<SumRowsArgs>& sum_rows_kernel();

// x [.., in] contiguous, weight [out, in], bias [out] or null, all read in the compute dtype; to [.., out].
Tensor linear(const Tensor& x, Parameter& weight, Parameter* bias);

// x + b over the last dimension, into x's own bytes, which nobody else may hold; x itself if `bias` is null.
Tensor add_bias(const Tensor& x, Parameter* bias);

// y = x Wᵀ, giving F32 [.., out]; never recorded.
Tensor linear_fp32_logits(const Tensor& x, Parameter& weight);

}  // namespace tessera
