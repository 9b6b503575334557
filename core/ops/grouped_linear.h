// y = x W_gᵀ, where rows of x fall into groups, each with a matrix of its own: experts.
//
// Rows beyond the last group are of none: they add nothing to any gradient of a matrix, and what stands in
// their place in y and in the gradient of x is not written: it may be computed with, but what comes of it
// must not be used.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

enum class GroupedProduct {
  output,           // c [R, N] = a [R, K] · b_gᵀ, b [G N, K]
  input_gradient,   // c [R, K] = a [R, N] · b_g, b [G N, K]
  weight_gradient,  // c_g [N, K] = a_gᵀ · b_g, a [R, N], b [R, K], c f32 [G N, K]; 0 where a group is empty
};

struct GroupedMatmulArgs {
  GroupedProduct product = GroupedProduct::output;
  Tensor a, b, c;           // contiguous; a and b f32 or bf16; c of their dtype unless said otherwise
  Tensor offsets;           // i32 [G + 1]: rows of group g are [offsets[g], offsets[g + 1])
  bool accumulate = false;  // weight_gradient only
};
Kernel<GroupedMatmulArgs>& grouped_matmul_kernel();

// x [R, K], weight [G N, K] with group g's rows together, offsets I32 [G + 1]; to [R, N].
Tensor grouped_linear(const Tensor& x, Parameter& weight, const Tensor& offsets);

}  // namespace tessera
