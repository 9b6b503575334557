// How a run starts: at step 0, or where its newest checkpoint left it, and what of the run this config
// changes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/run_setup.h"
#include "launch/run_state.h"

namespace tessera {

struct StartPlan {
  std::optional<SavedRun> saved;               // absent: begins at step 0
  RunPosition position;                        // with the reduce groups of this start
  ReduceGroups groups;                         // of data-parallel rank 0
  std::map<std::string, std::string> kernels;  // to wish for, slot to candidate
  std::vector<std::string> warnings;           // for rank 0 to tell, a line each
};

// Collective. Throws Error (usage) where the config does not go with the checkpoint, or with itself, saying
// what would; `fresh`: where there are checkpoints. For the holder of the directory's lock.
StartPlan plan_start(const Config& config, const RunSetup& setup, bool fresh, ProcessGroup& ranks);

}  // namespace tessera
