#include "parallel/reduce_groups.h"

#include <string>

#include "core/base/error.h"
#include "core/base/mutant.h"

namespace tessera {
namespace {

std::string divisors(std::int64_t n, std::int64_t multiple_of) {
  std::string text;
  for (std::int64_t d = multiple_of; d <= n; d += multiple_of)
    if (n % d == 0) text += (text.empty() ? "" : ", ") + std::to_string(d);
  return text.empty() ? "none" : text;
}

}  // namespace

ReduceGroups plan_reduce_groups(std::int64_t global_batch, std::int64_t micro_batch, std::int64_t groups,
                                int ranks, int rank, bool in_turn) {
  if (global_batch % micro_batch != 0)
    fail_usage("train.global_batch {} is not a multiple of train.micro_batch {}; micro_batch may be {}",
               global_batch, micro_batch, divisors(global_batch, 1));
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
