// Context parallelism: a sequence spread over ranks, and attention over all of it.
//
// A row of S positions is cut into 2 · cp pieces; rank c holds pieces c and 2 · cp − 1 − c, in that order, so
// that every rank has as much of a causal mask as any other. Two ways to mix: `all_gather` hands every rank
// all keys and values, `ulysses` turns the cut by sequence into one by heads and back. Both see document
// starts and windows as one rank does. Collective over the cp group; the rank's thread only.
#pragma once

#include <vector>

#include "core/nn/blocks.h"
#include "parallel/comm/communicator.h"
#include "parallel/layout.h"

namespace tessera {

// Which positions of a row of `length` rank `rank` of `ranks` holds, in its order: ranges [begin, end).
struct PositionRange {
  std::int64_t begin = 0, end = 0;
};
std::vector<PositionRange> positions_of(std::int64_t length, int rank, int ranks);

// What takes attention's place (core/nn/blocks.h). The group outlives it.
SequenceMixer context_mixer(ContextMethod method, ProcessGroup& group);

}  // namespace tessera
