// Linked in where ranks on GPUs exchange tensors through NCCL.

#include "parallel/comm/device_group.h"
#include "parallel/comm/nccl.h"
#include "parallel/comm/nccl_world.h"

namespace tessera {
namespace {

const RegisterDeviceGroup register_nccl(DeviceKind::cuda, make_nccl_group, make_nccl_world);

}  // namespace
}  // namespace tessera
