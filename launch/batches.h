// Samples of the training stream as batches on a device. Rank's thread only.
#pragma once

#include <cstdint>
#include <functional>
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

}  // namespace tessera
