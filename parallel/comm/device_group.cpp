#include "parallel/comm/device_group.h"

#include <array>
#include <string_view>

#include "core/base/error.h"

namespace tessera {
namespace {

std::array<RegisterDeviceGroup::Make, 3>& makers() {
  static std::array<RegisterDeviceGroup::Make, 3> table{};
  return table;
}

bool ranks_are_threads(const ProcessGroup& host) {
  return std::string_view(host.kind()) == "threads";
}

}  // namespace

RegisterDeviceGroup::RegisterDeviceGroup(DeviceKind kind, Make make) {
  makers()[static_cast<std::size_t>(kind)] = make;
}

std::unique_ptr<ProcessGroup> make_device_group(ProcessGroup& host, Device& device, SumOrder order) {
  if (device.kind() != DeviceKind::cuda || ranks_are_threads(host)) return nullptr;
  const RegisterDeviceGroup::Make make = makers()[static_cast<std::size_t>(device.kind())];
  if (make == nullptr)
    fail_usage(
        "this build has no NCCL, through which processes share GPUs' memory: build it where nccl.h is");
  return make(host, device, order);
}

int device_for_rank(const ProcessGroup& host, DeviceKind kind) {
  const int devices = device_count(kind);
  if (kind != DeviceKind::cuda) return 0;
  if (ranks_are_threads(host)) return host.rank_on_node() % devices;
  // One that each process sees alone is bound by whoever started it.
  if (devices == 1) return 0;
  if (host.ranks_on_node() > devices)
    fail_usage("{} ranks on a node that has {} GPUs: start one rank for each (mpirun --map-by ppr:{}:node)",
               host.ranks_on_node(), devices, devices);
  return host.rank_on_node();
}

}  // namespace tessera
