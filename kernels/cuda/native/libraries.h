// The maths libraries of a GPU: handles, plans and workspaces that live as long as the Device.
#pragma once

#include <memory>

namespace tessera {
class Device;
}

namespace tessera::cuda {

class Attention;
class Gemm;

// Each is made when it is first asked for. They hold memory of the device: they go before its arena does.
struct DeviceLibraries {
  std::shared_ptr<Gemm> gemm;
  std::shared_ptr<Attention> attention;
};

// `device` must be a cuda Device. The rank's thread only.
DeviceLibraries& libraries(Device& device);

}  // namespace tessera::cuda
