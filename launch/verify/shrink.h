// A config's model and batch made small enough to run in seconds, with everything kept that a layout can get
// wrong. Pure functions.
#pragma once

#include "launch/config/config.h"
#include "launch/verify/run.h"

namespace tessera::verify {

struct Small {
  Subject subject;
  ParallelLayout layout;
  std::vector<std::string> kept;  // of the config, a line each
};

// `layout`: as planned for the config's own sizes. Kept: of each pipeline chunk a layer of every kind that it
// has, and which kinds meet at its ends; windows that end inside a piece of a sequence and beyond one; the
// ratio of heads to KV heads; experts a token sees; what divides by tp, ep and cp and what does not; whether
// reduce groups have several microbatches, and odd numbers of groups; schedule, ZeRO, recomputation, masks.
// The optimizer's terms stay, at rates at which each shows. A bound on experts' buffers is for
// expert_room.h to set. `compute`: F32 or BF16.
Small shrink(const Config& config, const ModelSpec& spec, const ParallelLayout& layout, DType compute);

}  // namespace tessera::verify
