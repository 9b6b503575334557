// Looking after mpirun or srun while a job runs. Main thread only.
#pragma once

#include "launch/mpirun.h"

namespace tessera {

// Runs the command and returns its exit code (128 + N if signal N ended it). Meanwhile a request to stop
// (stop_signals()) becomes a line on the command's standard input, which mpirun and srun keep for rank 0
// until it reads: so it counts from the start on, and no signal reaches a process that is not ready for it.
// Further requests change nothing. SIGQUIT (Ctrl-\) ends the command and its ranks, a second one kills it.
// Its standard error passes through LaunchNotices. Throws Error if it cannot be started.
int run_command(const LaunchCommand& command);

}  // namespace tessera
