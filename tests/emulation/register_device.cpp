// Linked in where `device: cuda` is to be the emulated one.

#include "tests/emulation/device.h"

namespace tessera::emulation {
namespace {

const RegisterDevice register_emulated(DeviceKind::cuda, {make_emulated_device, [] { return 1; }});

}  // namespace
}  // namespace tessera::emulation
