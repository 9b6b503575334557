#include <CLI/CLI.hpp>
#include <chrono>
#include <thread>

#include "core/base/log.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/signals.h"
#include "launch/trainer.h"
#include "parallel/comm/local.h"
#include "parallel/comm/mpi.h"

namespace tessera {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1;
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

int train(const TrainArguments& arguments) {
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
  verb->add_option("--ranks", arguments->ranks, "Ranks, as threads of this process")
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--fresh", arguments->fresh, "Refuse to run if checkpoint.dir already holds checkpoints");
  verb->footer(
      "Examples:\n"
      "  tessera train configs/demo.yaml --ranks 2\n"
      "  mpirun -n 2 tessera train configs/demo.yaml train.steps=500\n\n"
      "Resumes from the newest good checkpoint in checkpoint.dir. SIGUSR1 (and SIGTERM under srun) saves at "
      "the end of\n"
      "the step and exits with 75.");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return train(*arguments); }; });
}

}  // namespace tessera
