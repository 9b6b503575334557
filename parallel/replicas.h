// Copies that several ranks hold of one piece of a model, compared by hash.
//
// Data-parallel replicas, what tensor-parallel ranks hold uncut, a tied head's matrix, what ZeRO 1 and 2
// publish, with masters and moments: all are equal bit for bit, whatever the layout, as long as memory and
// network are sound. A copy that is not would spread, or be saved.
#pragma once

#include <string>

#include "parallel/engine.h"

namespace tessera {

// Between steps; collective over the world, with the same answer on every rank: "" where all copies are
// equal, else a line that names ranks and the first tensor that differ. Of three copies or more, ranks that
// hold another than most do; else all that hold one.
std::string compare_replicas(const Engine& engine);

}  // namespace tessera
