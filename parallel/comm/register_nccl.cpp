// Linked in where ranks on GPUs exchange tensors through NCCL.

#include "parallel/comm/device_group.h"
#include "parallel/comm/nccl.h"

namespace tessera {
namespace {

const RegisterDeviceGroup register_nccl(DeviceKind::cuda, [](ProcessGroup& host, Device& device,
                                                             SumOrder order) {
  return make_nccl_group(host, device, {.native_order = order == SumOrder::native});
});

}  // namespace
}  // namespace tessera
