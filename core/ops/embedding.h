// Rows of a matrix by token id.
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/kernel.h"

namespace tessera {

struct EmbeddingForward {
  Tensor tokens;  // i32 [n]
  Tensor weight;  // [V, H]: rows of ids first … first + V − 1
  Tensor out;     // [n, H], dtype of weight; zeros for other ids
  std::int64_t first = 0;
};
Kernel<EmbeddingForward>& embedding_forward_kernel();

struct EmbeddingBackward {
  Tensor tokens;
  Tensor dout;     // [n, H]
  Tensor dweight;  // f32 [V, H]; rows add up in order of the tokens
  bool accumulate = false;
  std::int64_t first = 0;
};
Kernel<EmbeddingBackward>& embedding_backward_kernel();

// tokens I32 [B, S], weight [V, H] whose row 0 is that of id `first`; to [B · S, H] in the compute dtype,
// zeros for ids that it has no row for.
Tensor embedding(const Tensor& tokens, Parameter& weight, std::int64_t first = 0);

}  // namespace tessera
