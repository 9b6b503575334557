// The global gradient norm: every logical tensor once, summed in double in an order that no layout changes.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"

namespace tessera {

// √(Σ g²) over the gradients of all parameters: squares in double per block of 64 rows of a logical tensor,
// blocks in order of the tensors' names, then of rows. Parallel over blocks on the device's threads.
double gradient_norm(std::span<Parameter* const> parameters);

}  // namespace tessera
