// Weights and moments of a whole model, put together from what ranks speak for, and held against what ranks
// have. Internal to launch/verify; any rank's thread.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "launch/verify/run.h"

namespace tessera::verify {

class States {
 public:
  void add(const std::vector<Engine::Owned>& parts);

  // The first state of a part that is not, to the bit, what was added.
  struct Misfit {
    std::size_t order = 0;  // of the part in the model
    std::string state;      // "first moment of layers.0.ffn.up.weight"
    std::string what;
  };
  // After all have added. `moments`: whether they count.
  std::optional<Misfit> misfit(const std::vector<Engine::Owned>& parts, bool moments) const;
  // The same of all that a checkpoint holds.
  std::optional<Misfit> misfit(const LoadedCheckpoint& checkpoint) const;

 private:
  std::mutex mutex_;
  // By state; with its name as checkpoints have it, and the tensor's.
  struct State {
    std::string tensor, name;
    Whole whole;
  };
  std::map<std::string, State> all_;
};

}  // namespace tessera::verify
