// Ranks as MPI processes, exchanging host memory. The only header through which Tessera knows MPI.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"

namespace tessera {

class MpiWatch;

// Whether this process was started by mpirun or srun, with more than one rank or as a rank of such a job.
bool started_by_mpi();

// MPI's life in this process, and the group of all ranks; one at a time, made and used by the main thread,
// which tells of the rank's activity from then on. A standstill (core/base/watch.h) ends the job, saying who
// is behind, with exit code `watchdog`.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();  // finalises, unless abort ended the job
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  ProcessGroup& world() { return *world_; }
  // Called by a rank that failed: whether it is the lowest of those that failed at about the same time, as
  // all do over a mistake in the config or a missing file. Takes a third of a second.
  bool speaks_for_failed_ranks();
  // Ends every rank of the job with this exit code; does not return.
  [[noreturn]] static void abort(int code);

 private:
  struct FailureNotes;
  std::shared_ptr<MpiWatch> watch_;
  std::unique_ptr<ProcessGroup> world_;
  std::unique_ptr<FailureNotes> failures_;
};

}  // namespace tessera
