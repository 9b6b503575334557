// Ranks as threads of one process: for `train --ranks`, for tests, and for several ranks on one device.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace tessera {

// Runs `rank_main` on `ranks` new threads, each with its own group object, and returns when all have ended.
// If any throws, the others are woken with PeerFailed, and the first cause is rethrown here, naming its rank.
void run_local_ranks(int ranks, const std::function<void(ProcessGroup&)>& rank_main);

}  // namespace tessera
