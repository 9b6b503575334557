// Which group moves the tensors of a device between ranks: host memory goes by the ranks' own group, a GPU's
// by the library made for it.
//
// A communicator for a kind of device registers itself when it is linked in, before main().
#pragma once

#include <memory>

#include "core/tensor/device.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/meeting.h"
#include "parallel/comm/sum_order.h"

namespace tessera {

struct RegisterDeviceGroup {
  using Make = std::unique_ptr<ProcessGroup> (*)(ProcessGroup& host, Device& device, SumOrder order);
  // A world of processes that meet, each with a device of its own.
  using MakeWorld = std::unique_ptr<ProcessGroup> (*)(Meeting& meeting, std::unique_ptr<Device> device);
  RegisterDeviceGroup(DeviceKind kind, Make make, MakeWorld make_world);
};

// The group of processes of this node that nothing started together: they meet, and exchange host values
// through their devices of that kind, the one of their rank each. The meeting, which this holds, outlives the
// group. Throws what meet() does, and Error where devices of that kind cannot do it.
std::unique_ptr<ProcessGroup> make_met_group(Meeting& meeting, DeviceKind kind);

// The group for tensors on `device`, over `host`, which both outlive it; null where `host` moves them itself:
// where they are in host memory, or its ranks are threads, which see each other's memory. Collective over
// `host`. Throws Error where this build has no such communicator.
std::unique_ptr<ProcessGroup> make_device_group(ProcessGroup& host, Device& device, SumOrder order);

// The device of that kind for this rank, among its node's: its place on the node. Threads share what there
// is. Throws Error where processes are more than devices.
int device_for_rank(const ProcessGroup& host, DeviceKind kind);

}  // namespace tessera
