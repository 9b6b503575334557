// Which layers go to which chunk of a pipeline. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/model.h"

namespace tessera {

// Relative cost of each layer, and of the embedding before and the head after them, in one microbatch.
struct SplitCosts {
  double embedding = 0;
  std::vector<double> layers;
  double head = 0;
};
// By FLOPs per token at this sequence length.
SplitCosts split_costs(const ModelSpec& spec, std::int64_t seq_len);

// Layers of each chunk, at least one, so that the dearest chunk costs as little as can be, and among such
// splits the earlier chunks as much as they may. Asserts that there are at least as many layers as chunks.
std::vector<std::int64_t> split_layers(const SplitCosts& costs, int chunks);

// The parts of `counts` layers each. `counts` add up to the spec's layers.
std::vector<ModelPart> pipeline_parts(const ModelSpec& spec, const std::vector<std::int64_t>& counts,
                                      const ModelPlace& place);

}  // namespace tessera
