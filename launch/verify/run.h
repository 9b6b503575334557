// Short runs of a small model on thread ranks, recorded whole: what `verify` compares.
//
// The batch is drawn from a seed and the same for every layout. Functions return when all ranks have ended;
// any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "parallel/engine.h"

namespace tessera::verify {

// What is trained, whatever the layout.
struct Subject {
  ModelSpec spec;
  ModelOptions model;
  BatchShape batch;
  std::int64_t reduce_groups = 1;
  bool document_mask = false;
  AdamWOptions optimizer;
  double lr = 1e-3;
  double clip = 1;
  std::uint64_t seed = 1;
  int steps = 3;
};

// A logical tensor's values, put together from the ranks' parts.
struct Whole {
  Shape shape;
  std::vector<float> values;
};

// What a run did. Gradients are those of the first step, before clipping; weights those after the last.
struct Record {
  std::vector<double> losses, norms;  // by step
  std::map<std::string, Whole> gradients, weights;
  std::vector<std::string> order;  // of tensors, as they are executed
  std::vector<std::size_t> peak_bytes;  // by rank
};

// Sample `ordinal` of the seeded stream; documents of random length where they are masked.
Sample draw_sample(const Subject& subject, std::uint64_t ordinal);

// Throws Error if the layout does not fit, or parts of a tensor overlap or are missing.
Record run(const Subject& subject, const ParallelLayout& layout);

}  // namespace tessera::verify
