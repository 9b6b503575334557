// Whether a layout computes what one rank does, on a small copy of a config: everything that `verify` runs.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/hf_config.h"
#include "launch/verify/compare.h"
#include "launch/verify/shrink.h"

namespace tessera::verify {

struct VerifyOptions {
  bool bf16 = false;  // compare in bf16 as well as in fp32
  bool fast = false;  // steps alone: neither what a run does beside them, nor MPI
  Place place;
  // Runs run_mpi_rank() of the config, given a folder as its last argument; empty: MPI is left out.
  std::vector<std::string> mpi_program;
};

struct Verdict {
  Small small;                     // in the precision asked for
  Comparison comparison;           // likewise
  std::vector<std::string> lines;  // what else was run, or why it was not
  std::optional<Fault> fault;      // the first, in order of execution
};

// Steps in fp32, then in bf16 where asked for; then the rest of a run (life.h); then MPI (trace.h). Ends with
// the first fault. `layout`: as planned for the config's own sizes.
Verdict verify_layout(const Config& config, const ReleaseConfig& release, const ParallelLayout& layout,
                      const VerifyOptions& options);

// What check_mpi's program runs, of the same config and layout.
int verify_mpi_rank(const Config& config, const ReleaseConfig& release, const ParallelLayout& layout,
                    const std::string& folder);

}  // namespace tessera::verify
