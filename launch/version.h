// The version of Tessera, from the CMake project.
#pragma once

namespace tessera {

extern const char* const version;  // "0.1.0"

}  // namespace tessera
