#include "parallel/comm/device_group.h"

#include <array>
#include <string_view>

#include "core/base/error.h"

namespace tessera {
namespace {

struct Makers {
  RegisterDeviceGroup::Make group = nullptr;
  RegisterDeviceGroup::MakeWorld world = nullptr;
};

Makers& makers(DeviceKind kind) {
  static std::array<Makers, 3> table{};
  return table[static_cast<std::size_t>(kind)];
}

const Makers& nccl() {
  const Makers& registered = makers(DeviceKind::cuda);
  if (registered.group == nullptr)
    fail_usage(
        "this build has no NCCL, through which processes share GPUs' memory: build it where nccl.h is");
  return registered;
}

bool ranks_are_threads(const ProcessGroup& host) {
  return std::string_view(host.kind()) == "threads";
}

}  // namespace

RegisterDeviceGroup::RegisterDeviceGroup(DeviceKind kind, Make make, MakeWorld make_world) {
  makers(kind) = {make, make_world};
}

std::unique_ptr<ProcessGroup> make_device_group(ProcessGroup& host, Device& device, SumOrder order) {
  if (device.kind() != DeviceKind::cuda || ranks_are_threads(host)) return nullptr;
  return nccl().group(host, device, order);
}

std::unique_ptr<ProcessGroup> make_met_group(Meeting& meeting, DeviceKind kind) {
  if (kind != DeviceKind::cuda)
    fail_usage(
        "ranks that meet at a file exchange all they have through GPUs: set train.device: cuda, or start "
        "ranks "
        "on CPUs as threads (--ranks alone) or by mpirun (tessera launch)");
  const Makers& make = nccl();
  const int devices = device_count(kind);
  if (devices > 1 && meeting.ranks() > devices)
    fail_usage("{} ranks on a node that has {} GPUs: start one for each", meeting.ranks(), devices);
  // One that this process sees alone is bound by whoever started it.
  return make.world(meeting, make_device(kind, {.ordinal = devices == 1 ? 0 : meeting.rank()}));
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
