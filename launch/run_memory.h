// Whether the nodes of a run have room for what its ranks take of host memory.
#pragma once

#include <string>

#include "launch/estimate.h"

namespace tessera {

class ProcessGroup;

// Refuses, with Error on every rank, a run whose ranks take more of some node's memory, or of some process's,
// than there is, and says what would fit. `assumed` is what to say of sizes that nobody chose, or empty.
// Collective, before anything large is allocated. `device` is this rank's; of a GPU's ranks only samples
// count.
void require_run_memory(ProcessGroup& ranks, Device& device, const RunShape& run, const std::string& assumed);

}  // namespace tessera
