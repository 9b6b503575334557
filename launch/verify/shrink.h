// A config's model and batch made small enough to run in seconds, with everything kept that a layout can get
// wrong. Pure functions.
#pragma once

#include "launch/config/config.h"
#include "launch/verify/run.h"

namespace tessera::verify {

struct Small {
  Subject subject;
  ParallelLayout layout;
};

// `layout`: as planned for the config's own sizes. Kept: the family's blocks, which layers have experts or
// windows, layers of chunks in proportion, the ratio of heads to KV heads, experts a token sees, what divides
// by tp, ep and cp and what does not, schedule, ZeRO, recomputation, masks, optimizer. `compute`: F32 or
// BF16.
Small shrink(const Config& config, const ModelSpec& spec, const ParallelLayout& layout, DType compute);

}  // namespace tessera::verify
