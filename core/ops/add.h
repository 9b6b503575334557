// Sums of activations: residual connections.
#pragma once

#include "core/tensor/tensor.h"

namespace tessera {

// x + y. Same shape and dtype, contiguous.
Tensor add(const Tensor& x, const Tensor& y);

}  // namespace tessera
