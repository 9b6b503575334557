// Which group moves the tensors of a device between ranks: host memory goes by the ranks' own group, a GPU's
// by the library made for it.
//
// A communicator for a kind of device registers itself when it is linked in, before main().
#pragma once

#include <memory>

#include "core/tensor/device.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/sum_order.h"

namespace tessera {

struct RegisterDeviceGroup {
  using Make = std::unique_ptr<ProcessGroup> (*)(ProcessGroup& host, Device& device, SumOrder order);
  RegisterDeviceGroup(DeviceKind kind, Make make);
};

// The group for tensors on `device`, over `host`, which both outlive it; null where `host` moves them itself:
// where they are in host memory, or its ranks are threads, which see each other's memory. Collective over
// `host`. Throws Error where this build has no such communicator.
std::unique_ptr<ProcessGroup> make_device_group(ProcessGroup& host, Device& device, SumOrder order);

// The device of that kind for this rank, among its node's: its place on the node. Threads share what there
// is. Throws Error where processes are more than devices.
int device_for_rank(const ProcessGroup& host, DeviceKind kind);

}  // namespace tessera
