// Samples of the training stream as batches on a device. Rank's thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/model.h"
#include "data/dataset.h"
#include "parallel/context.h"

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
};

class ProcessGroup;

// Mean loss over every window of `file`, shared among the ranks; microbatch by microbatch, summed in file
// order, so the result does not depend on the number of ranks.
Evaluation evaluate(Model& model, const TokenFile& file, std::int64_t seq_len, std::int64_t micro_batch,
                    bool document_mask, ProcessGroup& ranks);

}  // namespace tessera
