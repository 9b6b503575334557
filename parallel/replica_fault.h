// What ends a run whose ranks hold different copies of a weight.
#pragma once

#include "core/base/error.h"

namespace tessera {

// Thrown by all ranks alike: its text names those that are meant, not the one that tells.
class ReplicasDiffer : public Error {
 public:
  static constexpr ExitCode exit_code{17};  // memory or network at fault, nothing saved: README.md
  explicit ReplicasDiffer(const std::string& message) : Error(message, exit_code) {}
};

}  // namespace tessera
