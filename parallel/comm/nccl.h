// Ranks whose tensors are on GPUs, one GPU each, which NCCL moves; host values go on through another group.
//
// Calls on tensors of a GPU are handed to a stream of the group that waits for device.stream() and that
// device.stream() waits for: they run in order with all other work, and the host does not wait for them.
// (NCCL's first call of a group connects the ranks, and there the host waits for the others.) Communicators
// do not block: while one is busy, and while the host waits for the device, the rank looks for errors that
// NCCL reports late, for a peer's failure and for the end of patience. Any of these aborts all communicators
// of the rank, so that none of its kernels waits for ever, and throws on the rank's thread, once.
//
// Messages. A send must not wait for its recv, while a GPU's send kernel does. So each ordered pair of
// neighbours has a way of its own (nccl_ways.h). What is sent is received in the order it was sent in, which
// the receiver learns from a note on the host group (tag and size, written once the send is posted); messages
// of tags that were not asked for yet are kept aside. Such a send waits on its GPU for earlier calls of its
// own rank and, at the other end, for the recv; that recv waits for earlier calls of its rank, since its note
// had come. So whatever waits is later, in the order of a program whose sends need not wait, than what it
// waits for: if that program ends, this one does. device.stream() waits for what is received, never for what
// is sent. A recv makes the host wait until the sender's host has come to its send, not for the data.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/sum_order.h"

namespace tessera {

// `host`, which moves host memory, and `device`, a GPU, outlive the group and its parts. Collective over
// `host`; throws Error where GPUs are of several kinds, or two ranks have the same one, before NCCL is
// called. The device's `while_waiting` is this group's, of which a device has one at a time.
std::unique_ptr<ProcessGroup> make_nccl_group(ProcessGroup& host, Device& device,
                                              SumOrder order = SumOrder::tree);

}  // namespace tessera
