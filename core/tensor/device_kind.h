// The kinds of device; core/tensor/device.h says what they are.
#pragma once

#include <cstdint>

namespace tessera {

enum class DeviceKind : std::uint8_t { cpu, cuda, meta };
const char* name(DeviceKind kind);

}  // namespace tessera
