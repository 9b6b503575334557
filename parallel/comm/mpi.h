// Ranks as MPI processes, exchanging host memory. The only header through which Tessera knows MPI.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"

namespace tessera {

// Whether this process was started by mpirun or srun, with more than one rank or as a rank of such a job.
bool started_by_mpi();

// MPI's life in this process, and the group of all ranks; one at a time, made and used by the main thread.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();  // finalises, unless abort ended the job
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  ProcessGroup& world() { return *world_; }
  // Ends every rank of the job with this exit code; does not return.
  [[noreturn]] static void abort(int code);

 private:
  std::unique_ptr<ProcessGroup> world_;
};

}  // namespace tessera
