#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>

#include "core/base/activity.h"
#include "core/base/log.h"
#include "core/base/watch.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/process.h"
#include "launch/signals.h"
#include "launch/trainer.h"
#include "parallel/comm/device_group.h"
#include "parallel/comm/local.h"
#include "parallel/comm/mpi.h"

namespace tessera {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1;
  std::optional<int> rank;
  std::string meet;
  bool fresh = false;
};

int train_threads(const Config& config, const TrainArguments& arguments) {
  ExitCode code = ExitCode::ok;
  run_local_ranks(arguments.ranks, [&](ProcessGroup& ranks) {
    Trainer trainer(config, ranks, {arguments.fresh, arguments.ranks > 1 ? "threads" : "alone"});
    const ExitCode mine = trainer.run();
    if (ranks.rank() == 0) code = mine;
  });
  return static_cast<int>(code);
}

// Tells the cause, once where all ranks met the same, and ends every rank, so that no peer waits.
[[noreturn]] void end_all_ranks(MpiSession& session, const std::string& cause, ExitCode code) {
  if (session.speaks_for_failed_ranks())
    log::error("{}", cause);
  else
    std::this_thread::sleep_for(std::chrono::seconds(5));  // the rank that speaks ends this one
  say_and_leave_in_order("");
  MpiSession::abort(static_cast<int>(code));
}

int train_mpi(const TrainArguments& arguments) {
  MpiSession session;
  ProcessGroup& ranks = session.world();
  const log::RankScope scope(ranks.rank(), ranks.size());
  try {
    Trainer trainer(load_config(arguments.config, arguments.overrides), ranks, {arguments.fresh, "mpi"});
    return static_cast<int>(trainer.run());
  } catch (const Error& e) {
    end_all_ranks(session, e.what(), e.code());
  } catch (const std::exception& e) {
    end_all_ranks(session, e.what(), ExitCode::failure);
  }
}

// One of several processes that nobody started together.
int train_met(const TrainArguments& arguments) {
  const log::RankScope scope(*arguments.rank, arguments.ranks);
  const Config config = load_config(arguments.config, arguments.overrides);
  Meeting meeting({arguments.meet, *arguments.rank, arguments.ranks, program_build()});
  const auto fail_with = [&](const std::string& cause, ExitCode code) {
    if (meeting.speaks_for_failed_ranks()) log::error("{}", cause);
    return static_cast<int>(code);
  };
  Activity activity;
  const ActivityScope scope_of_activity(activity);
  std::atomic<std::uint32_t> spoken{0};
  const Watch watch({{*arguments.rank, &activity}}, arguments.ranks, spoken, [&](const Standstill& found) {
    meeting.speaks_for_failed_ranks();
    say_and_leave_in_order(found.text, *arguments.rank, arguments.ranks);
    std::_Exit(static_cast<int>(ExitCode::watchdog));
  });
  try {
    const auto ranks = make_met_group(meeting, config.train.device);
    watch_for_stop_requests();  // until then a signal ends the wait for the others at once
    Trainer trainer(config, *ranks, {arguments.fresh, "met at a file"});
    return static_cast<int>(trainer.run());
  } catch (const PeerFailed&) {  // who tells of it
    return static_cast<int>(ExitCode::failure);
  } catch (const Error& e) {
    return fail_with(e.what(), e.code());
  } catch (const std::exception& e) {
    return fail_with(e.what(), ExitCode::failure);
  }
}

int train(const TrainArguments& arguments) {
  if (arguments.rank.has_value() != !arguments.meet.empty())
    fail_usage(
        "--rank and --meet go together, with --ranks: each process says which one it is, and where all meet");
  if (!arguments.meet.empty()) {
    if (started_by_mpi())
      fail_usage(
          "--meet is for ranks that nothing starts together; under mpirun or srun they have met already");
    return train_met(arguments);
  }
  watch_for_stop_requests();
  if (started_by_mpi()) {
    if (arguments.ranks > 1)
      fail_usage("--ranks starts threads; under mpirun or srun the ranks are there already");
    return train_mpi(arguments);
  }
  return train_threads(load_config(arguments.config, arguments.overrides), arguments);
}

}  // namespace

void add_train_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("train", "Train a model, or go on with a run that stopped");
  auto arguments = std::make_shared<TrainArguments>();
  verb->add_option("config", arguments->config, "The run's YAML file")->required();
  verb->add_option("overrides", arguments->overrides, "Config keys to change: train.steps=1000");
  verb->add_option("--ranks", arguments->ranks, "Ranks, as threads of this process; with --meet, processes")
      ->check(CLI::Range(1, 1024));
  verb->add_option("--rank", arguments->rank, "Which of --ranks processes this is, from 0; its GPU too")
      ->check(CLI::Range(0, 1023));
  verb->add_option("--meet", arguments->meet,
                   "A file, not there yet, at which processes started one by one on a node with GPUs meet");
  verb->add_flag("--fresh", arguments->fresh, "Refuse to run if checkpoint.dir already holds checkpoints");
  verb->footer(
      "Examples:\n"
      "  tessera train configs/demo.yaml --ranks 2\n"
      "  mpirun -n 2 tessera train configs/demo.yaml train.steps=500\n"
      "  for r in 0 1; do tessera train run.yaml train.device=cuda --ranks 2 --rank $r --meet /dev/shm/r & "
      "done; wait\n\n"
      "Resumes from the newest good checkpoint in checkpoint.dir. SIGUSR1 (and SIGTERM under srun) saves at "
      "the end of\n"
      "the step and exits with 75.");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return train(*arguments); }; });
}

}  // namespace tessera
