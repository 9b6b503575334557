#include "launch/start_plan.h"

#include "checkpoint/retention.h"
#include "core/base/error.h"
#include "launch/kernel_choices.h"
#include "parallel/tree_sum.h"

namespace tessera {
namespace {

// A config's own number must fit; else a run goes on with a number near the one that it had.
ReduceGroups choose_groups(const Config& config, const RunSetup& setup, std::optional<std::int64_t> of_run) {
  const ParallelLayout& layout = setup.layout;
  const BatchShape& batch = setup.batch;
  std::int64_t groups = layout.zero >= 2 ? batch.microbatches() : layout.mesh.dp;
  if (config.parallel.reduce_groups)
    groups = *config.parallel.reduce_groups;
  else if (of_run)
    groups = groups_for_ranks(batch.microbatches(), *of_run, layout.mesh.dp);
  try {
    return plan_reduce_groups(batch.global_batch, batch.micro_batch, groups, layout.mesh.dp, 0,
                              layout.zero >= 2);
  } catch (const Error& e) {
    fail_at_its_key(config, e);
  }
}

// Why bits will differ from those that the run would have had, but for kernels.
void note_other_sums(const Config& config, const RunSetup& setup, const SavedRun& saved,
                     const ReduceGroups& groups, std::vector<std::string>& changes) {
  const std::int64_t of_run = saved.position.reduce_groups;
  if (saved.config.train.micro_batch != config.train.micro_batch)
    changes.push_back(fmt::format("train.micro_batch {} instead of the run's {}", config.train.micro_batch,
                                  saved.config.train.micro_batch));
  if (groups.groups == of_run) return;
  if (config.parallel.reduce_groups)
    changes.push_back(
        fmt::format("parallel.reduce_groups {} instead of the run's {}", groups.groups, of_run));
  else
    changes.push_back(fmt::format(
        "the run's {} reduce groups do not go with {} microbatches a step on {} data-parallel ranks: it goes "
        "on with {}",
        of_run, groups.microbatches, setup.layout.mesh.dp, groups.groups));
}

void warn_of_layout(const ParallelLayout& layout, const ReduceGroups& groups,
                    std::vector<std::string>& warnings) {
  const int dp = layout.mesh.dp;
  const bool subtrees =
      layout.zero >= 2 ? rounds_are_subtrees(groups.groups, dp) : blocks_are_subtrees(groups.groups, dp);
  if (!subtrees)
    warnings.push_back(fmt::format(
        "{} data-parallel ranks do not hold subtrees of {} reduce groups: bits will differ from other "
        "numbers of ranks",
        dp, groups.groups));
  if (layout.zero >= 2 && groups.microbatches_per_group() > 1)
    warnings.push_back(
        fmt::format("parallel.zero {} holds full gradients while a reduce group's {} microbatches add up; "
                    "parallel.reduce_groups {} would free them after each",
                    layout.zero, groups.microbatches_per_group(), groups.microbatches));
}

}  // namespace

StartPlan plan_start(const Config& config, const RunSetup& setup, bool fresh, ProcessGroup& ranks) {
  if (fresh && !list_checkpoints(config.checkpoint.dir).empty())
    fail_usage("--fresh: '{}' holds checkpoints; use another checkpoint.dir or remove them",
               config.checkpoint.dir);
  StartPlan plan;
  plan.saved = find_run(config, *setup.data, ranks);
  plan.kernels = config.kernels;
  if (!plan.saved) {
    plan.groups = choose_groups(config, setup, std::nullopt);
  } else {
    plan.position = plan.saved->position;
    plan.groups = choose_groups(config, setup, plan.position.reduce_groups);
    std::vector<std::string> changes;
    note_other_sums(config, setup, *plan.saved, plan.groups, changes);
    plan.kernels = resumed_kernels(config, plan.saved->kernels, plan.saved->config.train.device, changes);
    for (const std::string& change : changes)
      plan.warnings.push_back(change + "; bits will differ from here");
  }
  plan.position.reduce_groups = plan.groups.groups;
  warn_of_layout(setup.layout, plan.groups, plan.warnings);
  return plan;
}

}  // namespace tessera
