// What a run saves and resumes from: weights, moments, position in the data, and what must not change between
// the two.
//
// Functions are collective: every rank of the run calls them. Rank's thread only.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "checkpoint/coordination.h"
#include "checkpoint/model_source.h"
#include "checkpoint/store.h"
#include "data/dataset.h"
#include "launch/config/config.h"
#include "parallel/comm/communicator.h"
#include "parallel/engine.h"

namespace tessera {

// A process group as the checkpoint store wants it.
class RankCoordination : public Coordination {
 public:
  explicit RankCoordination(ProcessGroup& ranks) : ranks_(ranks) {}
  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  std::vector<std::string> gather_text(const std::string& text) override;
  std::string broadcast_text(const std::string& text) override;
  bool agree(bool ok) override { return ranks_.maximum(ok ? 0 : 1) == 0; }

 private:
  ProcessGroup& ranks_;
};

// Where a run stands between two steps.
struct RunPosition {
  std::int64_t step = 0;             // steps done
  std::int64_t optimizer_steps = 0;  // less by those skipped
  std::int64_t tokens = 0;           // counted targets so far
  std::int64_t skipped = 0;
  std::int64_t reduce_groups = 1;
};

// Saves DIR/step-N and deletes what retention lets go. Each rank writes what it speaks for.
void save_run(const Config& config, const RunPosition& position, const Engine& engine,
              const ModelDescription& description, const Dataset& dataset, ProcessGroup& ranks);

// A checkpoint to go on from.
struct SavedRun {
  LoadedCheckpoint checkpoint;
  Config config;  // of its last start
  RunPosition position;
  std::map<std::string, std::string> kernels;  // chosen on config.train.device: slot to candidate
};

// The newest good checkpoint of the run; nullopt if there is none. Throws Error (usage) listing the keys if
// it belongs to another model or data stream, and Error if there are checkpoints but none is good: a run
// never starts over unasked. Token files are known by content, wherever they lie; those of a checkpoint that
// does not tell it, by path. For the holder of the directory's lock.
std::optional<SavedRun> find_run(const Config& config, const Dataset& data, ProcessGroup& ranks);

// Weights and moments of whatever part this rank holds, saved under whatever layout.
void load_run(const SavedRun& saved, Engine& engine);

}  // namespace tessera
