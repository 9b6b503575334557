// Rows of a matrix by token id.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct EmbeddingForward {
  Tensor tokens;  // i32 [n], each in [0, V)
  Tensor weight;  // [V, H]
  Tensor out;     // [n, H], dtype of weight
};
Kernel<EmbeddingForward>& embedding_forward_kernel();

struct EmbeddingBackward {
  Tensor tokens;
  Tensor dout;     // [n, H]
  Tensor dweight;  // f32 [V, H]; rows add up in order of the tokens
  bool accumulate = false;
};
Kernel<EmbeddingBackward>& embedding_backward_kernel();

// tokens I32 [B, S], weight [V, H]; to [B, S, H] in the compute dtype.
Tensor embedding(const Tensor& tokens, Parameter& weight);

}  // namespace tessera
