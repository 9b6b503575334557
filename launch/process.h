// Facts about this process, from the operating system. Any thread.
#pragma once

#include <cstdint>

namespace tessera {

// Seconds since the process was started (exec), to a hundredth.
double seconds_since_process_start();

// The largest resident size so far, in bytes: code, libraries and file mappings included.
std::uint64_t peak_resident_bytes();

}  // namespace tessera
