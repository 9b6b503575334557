#include "parallel/reduce_groups.h"

#include "core/base/error.h"
#include "core/base/mutant.h"
#include "parallel/mesh_shape.h"

namespace tessera {

ReduceGroups plan_reduce_groups(std::int64_t global_batch, std::int64_t micro_batch, std::int64_t groups,
                                int ranks, int rank, bool in_turn) {
  if (global_batch % micro_batch != 0)
    fail_usage("train.global_batch {} is not a multiple of train.micro_batch {}; micro_batch may be {}",
               global_batch, micro_batch, divisors(global_batch));
  const std::int64_t microbatches = global_batch / micro_batch;
  if (groups < 1 || microbatches % groups != 0 || groups % ranks != 0)
    fail_usage(
        "parallel.reduce_groups {} does not go with {} microbatches a step on {} data-parallel ranks; it may "
        "be {}",
        groups, microbatches, ranks, divisors(microbatches, ranks));
  const std::int64_t local = groups / ranks;
  if (in_turn != mutant("groups_in_turn")) return {groups, microbatches, rank, ranks, local};
  return {groups, microbatches, rank * local, 1, local};
}

std::int64_t groups_for_ranks(std::int64_t microbatches, std::int64_t groups, int ranks) {
  std::int64_t best = 0;
  for (std::int64_t fits = ranks; fits <= microbatches && (best == 0 || fits <= groups); fits += ranks)
    if (microbatches % fits == 0) best = fits;
  return best == 0 ? groups : best;
}

}  // namespace tessera
