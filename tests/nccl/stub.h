// Linked in the place of libnccl: ranks are threads, devices are emulated, and no call blocks.
//
// Data moves once all the ranks that a call needs have made theirs; until then it is in progress. A single
// send alone is over at once, as it is for a host whose GPU goes on, but not the first one between two ranks,
// which makes the connection. The end of a communicator waits for all its ranks, the most that NCCL may do.
// Everything that NCCL would hang over, refuse or get wrong is a fault, which
// also fails the communicators it is about. Any thread; one state for the process.
#pragma once

#include <nccl.h>

#include <string>
#include <vector>

namespace tessera::nccl_stub {

// Forgets what was before. No communicator may be alive.
void reset();
std::vector<std::string> faults();  // since then
// What each rank was heard to ask for, "rank 0 of 2: AllGather of 5 int32", in order.
std::vector<std::string> calls();

struct Communicators {
  int made = 0, alive = 0, aborted = 0;
};
Communicators communicators();

// The call-th thing, from 0, that this rank of any communicator of `size` ranks asks for is never done, and
// ends in this error.
void break_call(int size, int rank, int call, ncclResult_t error);
// Its communicators of that size report this error from now on.
void break_now(int size, int rank, ncclResult_t error);

}  // namespace tessera::nccl_stub
