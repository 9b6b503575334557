// How the ranks of a job were started: what the environment says, held against what MPI says.
#pragma once

#include <string>

namespace tessera {

struct Started {
  const char* how = "alone";
  const char* stop = "SIGTERM, SIGINT (Ctrl-C) or SIGUSR1 saves at the end of a step and exits with 75";
};

Started started_as_threads();
Started started_at_a_file();
// Under `tessera launch`, or else what the environment tells: mpirun or srun.
Started started_under_mpi(bool by_launch);

// srun without PMIx starts tasks that do not know of each other, each a job of one rank: that, as one line;
// "" if it is not so.
std::string lack_of_pmix();
// What contradicts a world of that many ranks: a number in the environment.
std::string against_ranks(int ranks);
// Whether this process is the one to tell of it, among those that do not know each other: task 0.
bool is_first_task();

}  // namespace tessera
