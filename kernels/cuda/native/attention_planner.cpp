#include "kernels/cuda/native/attention_planner.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "core/base/error.h"
#include "core/base/log.h"

namespace tessera::cuda {

std::size_t attention_workspace_budget() {
  const char* wish = std::getenv("TESSERA_ATTENTION_WORKSPACE");
  std::size_t mebibytes = 4096;
  if (wish != nullptr) {
    const char* end = wish + std::strlen(wish);
    const auto [read, error] = std::from_chars(wish, end, mebibytes);
    if (error != std::errc() || read != end || mebibytes == 0)
      fail_usage("TESSERA_ATTENTION_WORKSPACE={}: a number of MiB is wanted, as 8192", wish);
  }
  return mebibytes << 20;
}

const AttentionPlanner::Planned& AttentionPlanner::of(const AttentionProblem& problem) {
  if (const auto found = plans_.find(problem); found != plans_.end()) return found->second;
  std::unique_ptr<AttentionPlan> plan;
  const auto slices = fit_slices(problem, budget_, [&](const AttentionProblem& slice) {
    plan = cudnn_->plan(slice);
    return plan->workspace_bytes();
  });
  if (!slices) refuse(problem);
  if (!problem.deterministic && !said_any_order_) {
    said_any_order_ = true;
    log::info(
        "attention_backward: cudnn_any_order sums in any order: results differ in the last bits from run "
        "to run");
  }
  return plans_.emplace(problem, Planned{*slices, std::move(plan)}).first->second;
}

void AttentionPlanner::refuse(const AttentionProblem& problem) const {
  const AttentionProblem slice = slice_of(problem, smallest_slices(problem));
  constexpr std::size_t mebibyte = std::size_t{1} << 20;
  const std::size_t needed = (cudnn_->plan(slice)->workspace_bytes() + mebibyte - 1) / mebibyte;
  const bool may_be_switched = problem.backward && problem.deterministic;
  fail_usage(
      "{}: its smallest slice, {} of {} KV heads of one row, needs {} MiB of workspace, {} are allowed: "
      "set TESSERA_ATTENTION_WORKSPACE={}{}",
      problem.text(), slice.kv_heads, problem.kv_heads, needed, budget_ / mebibyte, needed,
      may_be_switched ? ", or `kernels: {attention_backward: cudnn_any_order}` if bits may differ from "
                        "run to run"
                      : "");
}

}  // namespace tessera::cuda
