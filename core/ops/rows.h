// Views of activations as [outer, inner, n] rows, which is how kernels walk them.
#pragma once

#include "core/tensor/tensor.h"

namespace tessera {

// x [.., n] or [.., heads, n] as [outer, inner, n]: the last two dimensions keep their strides, the others
// must collapse (each contiguous over the next). Rank 1 and 2 get an inner of 1.
Tensor as_rows(const Tensor& x);

}  // namespace tessera
