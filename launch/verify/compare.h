// Compares what a layout did with what one rank did, and says where they part. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/verify/run.h"

namespace tessera::verify {

// How far apart two tensors are, as a guess at what went wrong.
struct Difference {
  double relative = 0;  // norm of the difference over the norm of one rank's
  std::string guess;    // "tp × too large", "missing", …; empty where nothing fits
};
// A factor by which numbers are off, in words, with the axis that explains it.
std::string factor_text(double factor, const MeshShape& mesh);
Difference difference(const Whole& one, const Whole& many, const MeshShape& mesh);

// The worst of a group of tensors: "attention.q.weight" of all layers.
struct GroupRow {
  std::string group;
  int tensors = 0;
  double worst = 0;  // relative difference of gradients
  std::string worst_tensor;
  double worst_update = 0;    // largest difference of weights after the last step, over lr
  std::int64_t left_out = 0;  // elements whose gradient is below its rounding error
  std::int64_t elements = 0;
};

struct Fault {
  std::string tensor;  // or module, or "loss"
  std::string what;    // one line
};

struct Comparison {
  bool bits = false;                          // what the layout promises
  double allowed = 0;                         // relative difference
  double allowed_loss = 0, allowed_norm = 0;  // likewise
  double loss = 0, norm = 0;                  // worst relative differences over the steps
  std::vector<GroupRow> rows;
  std::optional<Fault> fault;  // the first in order of execution
  std::vector<std::string> remarks;
  std::int64_t left_out = 0, elements = 0;
};

Comparison compare(const Subject& subject, const ParallelLayout& layout, const Record& one,
                   const Record& many);

// Of a comparison without a fault: "the same bits as one rank", or how far from them.
std::string summary(const Comparison& comparison);

}  // namespace tessera::verify
