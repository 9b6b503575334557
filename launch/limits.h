// What the system lets this process have. Any thread.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// Lets this process and its children open as many files as the hard limit allows, up to 65536: each rank
// holds its token files open. Once, at the start.
void raise_open_files();

// Throws Error, naming the limit, where fewer than `needed` files may be open, which `what` needs.
void require_open_files(std::uint64_t needed, const std::string& what);

// Files that mpirun opens with this number of ranks on its node: Open MPI 4.1 has 24 of its own and 3 a rank,
// and some more while it starts them. Short of them it ends in SIGSEGV, or not at all.
constexpr std::uint64_t files_of_mpirun(int ranks) {
  return 32 + 4 * static_cast<std::uint64_t>(ranks);
}

}  // namespace tessera
