// Requests to save and stop, delivered as signals.
//
// SIGUSR1 always, and SIGTERM where it reaches the ranks (srun; bare mpirun kills instead). The handler only
// sets a flag of the process; all ranks agree on it at a step's end. Process-wide, as signals are.
#pragma once

namespace tessera {

// Installs the handlers; SIGINT keeps its default, which ends the process.
void watch_for_stop_requests();

// The signal asked for since the start, or 0.
int stop_request();

}  // namespace tessera
