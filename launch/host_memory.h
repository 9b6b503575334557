// How much memory there is for what a process is about to allocate, from the operating system: what the node
// has, what the control groups above the process leave (v1 and v2), and what its own limits leave. Any
// thread.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace tessera {

struct MemoryRoom {
  std::size_t bytes = 0;
  std::string bound;  // what leaves no more: "free memory", "memory.max of /user.slice", "ulimit -v"
};

// For all processes of the node together, as this one sees it: caches of files count as free. `root` stands
// for
// "/", for tests.
MemoryRoom node_memory(const std::filesystem::path& root = "/");
// For this process alone (RLIMIT_AS and RLIMIT_DATA); all there can be where it has no limits.
MemoryRoom process_memory();

// Refuses, with Error, what this process alone would need more memory for than there is. `what` begins the
// message: "'release'".
void require_host_memory(double bytes, const std::string& what);

}  // namespace tessera
