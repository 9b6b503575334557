// What a run will need, before it begins: memory by a dry run on the meta device, time by the model's FLOPs
// and a short measurement of this machine. Estimates; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/model.h"
#include "core/tensor/device.h"
#include "parallel/layout.h"
#include "parallel/reduce_groups.h"

namespace tessera {

// What decides how much memory a run takes.
struct RunShape {
  const ModelSpec& spec;
  ModelOptions options;
  ParallelLayout layout;
  BatchShape batch;
  ReduceGroups groups;
  bool graphs = false;  // CUDA graphs, which keep activations' memory from evaluations
};

// Bytes of weights, gradients, moments, tables, activations and workspace of a rank of each pipeline stage at
// their peak. Of what a rank receives from others only hidden states, keys and values are counted, and
// bounded buffers of experts. With the kernels of `device`, or a CPU's for null: throws the Error of one that
// would refuse a layer, or find no room for its workspace, in any stage and either direction. Sizes that no
// machine holds are not tried out; a lower bound stands for them.
std::vector<std::size_t> estimate_stages(const RunShape& run, Device* device = nullptr);
// The most of any stage.
std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const ParallelLayout& layout,
                            const BatchShape& batch, const ReduceGroups& groups, Device* device = nullptr,
                            bool graphs = false);
// Bytes of host memory that a rank's samples of one step take beside that.
double samples_bytes(const RunShape& run);
// Bytes of a whole model that computes the loss, or all logits, of `sequences` as long as options.positions.
double estimate_inference(const ModelSpec& spec, const ModelOptions& options, std::int64_t sequences,
                          bool logits);

// Which changes of the run would do, for a message; `fits` gives a rank's bytes where one does.
std::string what_would_fit(const RunShape& run,
                           const std::function<std::optional<double>(const RunShape&)>& fits);

// Refuses, with Error, a run that its device has no kernels or no room for, and says what would fit; else
// reserves the room, where the device knows how much it has.
void take_memory(Device& device, const ModelSpec& spec, const ModelOptions& options,
                 const ParallelLayout& layout, const BatchShape& batch, const ReduceGroups& groups,
                 bool graphs = false);

// FLOP/s of a matrix product of the model's own kind on this device, timed for about 30 ms.
double measure_flops(Device& device, DType compute, std::int64_t hidden_size);

}  // namespace tessera
