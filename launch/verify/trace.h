// The same steps by ranks that are threads and by ranks that are processes of MPI: what both promise is the
// same bits, so that hashes of everything a rank makes tell whether they keep it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/verify/compare.h"

namespace tessera::verify {

// What this rank makes in two steps, in order: a line each, what it is and its hash. Collective.
std::vector<std::string> trace(const Subject& subject, const ParallelLayout& layout, ProcessGroup& world);

// A process that mpirun started for check_mpi: leaves its trace in `folder`.
int run_mpi_rank(const Subject& subject, const ParallelLayout& layout, const std::filesystem::path& folder);

struct MpiCheck {
  std::string skipped;  // why it was not run; empty: it was
  std::optional<Fault> fault;
};
// Starts `program`, to which the folder is added, on as many ranks as the layout has, under mpirun; each runs
// run_mpi_rank() with this subject and layout. Skipped without mpirun, for more than eight ranks or for one,
// and inside a job of MPI.
MpiCheck check_mpi(const Subject& subject, const ParallelLayout& layout, std::vector<std::string> program);

}  // namespace tessera::verify
