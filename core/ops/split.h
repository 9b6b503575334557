// Cuts the last dimension into parts; backward joins their gradients.
#pragma once

#include <vector>

#include "core/tensor/kernel.h"

namespace tessera {

struct ConcatenateArgs {
  std::vector<Tensor> parts;  // contiguous [rows, size_i]; an undefined part counts as zeros
  std::vector<std::int64_t> sizes;
  Tensor out;  // contiguous [rows, sum of sizes]
};
Kernel<ConcatenateArgs>& concatenate_kernel();

// x [.., sum of sizes], contiguous, to strided views [.., sizes[i]], recorded as one op.
std::vector<Tensor> split(const Tensor& x, const std::vector<std::int64_t>& sizes);

}  // namespace tessera
