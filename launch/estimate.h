// What a run will need, before it begins: memory by a dry run on the meta device, time by the model's FLOPs
// and a short measurement of this machine. Estimates; any thread.
#pragma once

#include <cstdint>

#include "core/nn/model.h"
#include "core/tensor/device.h"
#include "parallel/layout.h"
#include "parallel/reduce_groups.h"

namespace tessera {

// Bytes of the first rank's weights, gradients, moments, activations and workspace at their peak. Stage 0
// holds the most microbatches at once; of what a rank receives from others only keys and values are counted,
// and bounded buffers of experts. With the kernels of `device`, or a CPU's for null: throws the Error of one
// that would refuse a layer, or find no room for its workspace, in any stage and either direction. `graphs`:
// as CUDA graphs, which keep activations' memory from evaluations.
std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const ParallelLayout& layout,
                            const BatchShape& batch, const ReduceGroups& groups, Device* device = nullptr,
                            bool graphs = false);

// Refuses, with Error, a run that its device has no kernels or no room for, and says what would fit; else
// reserves the room, where the device knows how much it has.
void take_memory(Device& device, const ModelSpec& spec, const ModelOptions& options,
                 const ParallelLayout& layout, const BatchShape& batch, const ReduceGroups& groups,
                 bool graphs = false);

// FLOP/s of a matrix product of the model's own kind on this device, timed for about 30 ms.
double measure_flops(Device& device, DType compute, std::int64_t hidden_size);

}  // namespace tessera
