// Whether what a rank is given to train on is what it should be. Pure functions.
#pragma once

#include <span>
#include <string>

#include "core/nn/model.h"
#include "data/dataset.h"
#include "parallel/context.h"

namespace tessera::verify {

// "" if `batch` holds these positions of the samples; else what differs, and where.
std::string batch_fault(const Batch& batch, std::span<const Sample> samples, bool document_mask,
                        std::span<const PositionRange> positions);

}  // namespace tessera::verify
