// Expert parallelism: experts dealt out over ranks, and the rows of tokens sent to them and back.
//
// Rank r of the ep group holds the r-th equal share of the experts; the ranks of the etp group hold slices of
// the same experts' channels. Rows go by all-to-all in a fixed order: on arrival by expert, then by etp rank,
// then by ep rank, then as they were sent; so a result does not depend on timing. Collective over both
// groups; the rank's thread only.
#pragma once

#include <memory>

#include "core/nn/moe.h"
#include "parallel/comm/communicator.h"

namespace tessera {

struct ExpertBuffer {
  // 0: messages are as large as rows come, for which the host reads their counts. Else what a rank may send
  // one other, as a multiple of its even share, 1 or more: messages of that size, and no wait. More rows are
  // an error that names the layer, never a dropped token; a factor of ep holds any.
  double factor = 0;
  bool bounded() const { return factor > 0; }
};

// Rows that a rank with `rows` of them may send to one of `ranks`.
std::int64_t buffer_rows(ExpertBuffer buffer, std::int64_t rows, int ranks);

// The groups outlive the dispatcher.
std::unique_ptr<TokenDispatcher> expert_dispatcher(ProcessGroup& ep, ProcessGroup& etp, ExpertBuffer buffer);

}  // namespace tessera
