#include "launch/started.h"

#include <fmt/core.h>

#include <cstdlib>

namespace tessera {
namespace {

const char* const pmix_advice =
    "start it with srun --mpi=pmix, with mpirun, or with tessera launch CONFIG -n N (--slurm for srun)";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Of the srun that started this process; "" if none did, or one for several groups of nodes.
std::string tasks_of_srun() {
  return variable("SLURM_HET_SIZE").empty() ? variable("SLURM_STEP_NUM_TASKS") : "";
}

}  // namespace

Started started_as_threads() {
  return {"threads"};
}

Started started_at_a_file() {
  return {"met at a file",
          "SIGTERM, SIGINT or SIGUSR1 to one rank saves all at the end of a step; exit code 75"};
}

Started started_under_mpi(bool by_launch) {
  if (by_launch) return {"tessera launch"};
  if (variable("OMPI_COMM_WORLD_SIZE").empty() && !tasks_of_srun().empty())
    return {"srun",
            "SIGTERM or SIGUSR1 (scancel --signal=USR1) saves at the end of a step and exits with 75"};
  return {
      "mpirun",
      "SIGUSR1 saves and exits with 75 (bare mpirun forwards it, and kills at once on SIGTERM and Ctrl-C)"};
}

std::string lack_of_pmix() {
  const std::string tasks = tasks_of_srun();
  const bool meet = !variable("PMIX_RANK").empty() || !variable("OMPI_COMM_WORLD_SIZE").empty();
  if (meet || tasks.empty() || tasks == "1") return "";
  return fmt::format("srun started {} tasks that cannot find each other, for want of PMIx: {}", tasks,
                     pmix_advice);
}

std::string against_ranks(int ranks) {
  const std::string known = std::to_string(ranks);
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const std::string size = variable(name); !size.empty() && size != known)
      return fmt::format("{} is '{}', but MPI has {} rank{}: {}, or unset it where an outer job left it",
                         name, size, ranks, ranks == 1 ? "" : "s", pmix_advice);
  const std::string tasks = variable("OMPI_COMM_WORLD_SIZE").empty() ? tasks_of_srun() : "";
  if (tasks.empty() || tasks == known) return "";
  return fmt::format("srun started {} tasks, but MPI has {} rank{}: {}", tasks, ranks, ranks == 1 ? "" : "s",
                     pmix_advice);
}

bool is_first_task() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (const std::string rank = variable(name); !rank.empty()) return rank == "0";
  return true;
}

}  // namespace tessera
