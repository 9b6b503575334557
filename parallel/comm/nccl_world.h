// Ranks of one node that nobody started together: they meet at a file, and all they exchange, host values
// too, goes through NCCL.
//
// Host memory is copied to small buffers on the rank's GPU, exchanged there, and copied back; a call returns
// when the data is there, as MPI's would. It has its own Device object on that GPU, and so its own streams:
// host values do not wait for the training that runs beside, nor does that wait for them. For tensors on GPUs
// a group over this one is made as over any other (nccl.h). Messages go between neighbours, once connect()
// was called; they are told apart by a note that goes before each.
//
// While it waits, a rank looks at the meeting: a peer that failed or is gone, or the end of patience, aborts
// all communicators of the rank and throws.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/meeting.h"

namespace tessera {

// Meets. `device` is the rank's GPU; the meeting outlives the group and its parts. Throws what meet() does.
std::unique_ptr<ProcessGroup> make_nccl_world(Meeting& meeting, std::unique_ptr<Device> device);

}  // namespace tessera
