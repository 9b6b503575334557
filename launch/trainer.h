// The training run on one rank: sets it up, resumes it, steps it, saves it.
//
// Every rank of a run makes one Trainer, with the same config, and calls run(). The Trainer owns the device,
// model, optimizer, data and log of its rank; the process group outlives it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/base/error.h"
#include "launch/config/config.h"

namespace tessera {

class Engine;
class ProcessGroup;

struct TrainOptions {
  bool fresh = false;  // refuse a checkpoint directory that holds checkpoints
  const char* how =
      "alone";  // "threads", "mpi" or "met at a file": how ranks were started, for the start-up table
  std::function<void(Engine&, std::int64_t step)> after_step = nullptr;  // for tests: faults of memory
};

class Trainer {
 public:
  Trainer(const Config& config, ProcessGroup& ranks, const TrainOptions& options);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Trains to the last step, or until a signal asks to stop. Returns ok, or requeue after saving on request,
  // or numbers_suspect after a non-finite loss or norm where the config says stop, or after too many. Throws
  // Error on failure: ReplicasDiffer where ranks hold different copies of a weight.
  ExitCode run();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
