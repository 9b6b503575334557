// Expert parallelism: experts dealt out over ranks, and the rows of tokens sent to them and back.
//
// Rank r of the ep group holds the r-th equal share of the experts; the ranks of the etp group hold slices of
// the same experts' channels. Rows go by all-to-all in a fixed order: on arrival by expert, then by etp rank,
// then by ep rank, then as they were sent; so a result does not depend on timing. Collective over both
// groups; the rank's thread only.
#pragma once

#include <memory>
#include <string>

#include "core/nn/moe.h"
#include "parallel/comm/communicator.h"

namespace tessera {

struct ExpertBuffer {
  // Rows that one rank's experts may be sent, as a multiple of the even share; 0: as many as come, of which
  // the worst case is all rows of all ranks. More is an error that names the layer, never a dropped token.
  double factor = 0;
};

// `layer` is named in errors. The groups outlive the dispatcher.
std::unique_ptr<TokenDispatcher> expert_dispatcher(std::string layer, ProcessGroup& ep, ProcessGroup& etp,
                                                   ExpertBuffer buffer);

}  // namespace tessera
