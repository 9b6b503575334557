// A group of which only this rank is there: calls are counted, and move nothing. For dry runs on `meta`,
// whose tensors have no memory.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"

namespace tessera {

// Rank 0 of `ranks`.
std::unique_ptr<ProcessGroup> make_null_group(int ranks);

}  // namespace tessera
