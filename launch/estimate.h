// What a run will need, before it begins: memory by a dry run on the meta device, time by the model's FLOPs
// and a short measurement of this machine. Estimates; any thread.
#pragma once

#include <cstdint>

#include "core/nn/model.h"

namespace tessera {

struct RunShape {
  std::int64_t micro_batch = 1, seq_len = 1;
  std::int64_t global_batch = 1;
  std::int64_t gradient_buffers =
      1;  // main gradient, and partial sums where a rank holds several reduce groups
};

// Bytes of one rank's weights, gradients, moments and activations at their peak.
std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const RunShape& shape);

// FLOP/s of a matrix product of the model's own kind on this device, timed for about 30 ms.
double measure_flops(Device& device, DType compute, std::int64_t hidden_size);

}  // namespace tessera
