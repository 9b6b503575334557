// Samples of the training stream as batches on a device. Rank's thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/nn/model.h"
#include "data/dataset.h"
#include "parallel/engine.h"

namespace tessera {

// Samples as one microbatch; `document_mask` decides whether doc_start is there.
Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device);
// The same, of these positions of each row only.
Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device,
                 std::span<const PositionRange> positions);

// What a rank trains on in a step: the samples of each of its microbatches, in order of
// Engine::microbatches().
struct StepData {
  std::vector<std::vector<Sample>> microbatches;
  std::int64_t counted = 0;  // targets of these that count
};

// Step `step` of a run trains on samples [step B, (step + 1) B) of its stream, B the global batch; of these,
// those that this rank sees. Its own work alone.
StepData read_step(const Engine& engine, const Dataset& data, const BatchShape& batch, std::int64_t step);
// Targets that count in the whole batch. Collective.
std::int64_t count_targets(const Engine& engine, const StepData& step);
// Microbatch i of the step, on the engine's device: of its positions only.
Batch load_batch(const Engine& engine, const StepData& step, std::size_t i, bool document_mask);

struct Evaluation {
  double loss = 0;          // mean −log p over counted targets, in nats
  std::int64_t tokens = 0;  // counted targets
  std::uint64_t text_bytes = 0;
  bool is_left = false;  // before its end: it holds nothing
};

// Mean loss over every window of `file`, shared among the data-parallel ranks; microbatch by microbatch,
// summed in file order, so the result does not depend on their number. Leaves where `wants_to_leave`, which
// says the same on all ranks, says so between two microbatches. Collective.
Evaluation evaluate(Engine& engine, const TokenFile& file, const BatchShape& batch, bool document_mask,
                    const std::function<bool()>& wants_to_leave = {});
// The same over all windows of several files; no tokens without files.
Evaluation evaluate(Engine& engine, std::span<const std::unique_ptr<TokenFile>> files,
                    const BatchShape& batch, bool document_mask,
                    const std::function<bool()>& wants_to_leave = {});

}  // namespace tessera
