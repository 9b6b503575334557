// Facts about this process, from the operating system. Any thread.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// Seconds since the process was started (exec), to a hundredth.
double seconds_since_process_start();

// The largest resident size so far, in bytes: code, libraries and file mappings included.
std::uint64_t peak_resident_bytes();

// "0.1.0 (build 3f2a…)": the version, and a hash of the program's file, which differs for any other code.
std::string program_build();

}  // namespace tessera
