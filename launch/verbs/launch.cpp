#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/limits.h"
#include "launch/mpirun.h"
#include "launch/options.h"
#include "launch/run_setup.h"
#include "launch/supervise.h"

namespace tessera {
namespace {

struct Options {
  LaunchRequest request;
  std::string config;
  std::string hostfile;
  std::vector<std::string> overrides;
  bool print = false;
  bool fresh = false;
};

int launch(const Options& options) {
  if (options.request.slurm && !options.hostfile.empty()) {
    fail_usage("--hostfile does not go with --slurm, which takes its nodes from the allocation");
  }
  // So that a mistake is told here and once, not by ranks.
  Config config = load_config(options.config, options.overrides);
  if (!options.print) read_run(config, options.request.ranks);
  LaunchRequest request = options.request;
  request.hostfile = options.hostfile;
  request.program = {std::filesystem::read_symlink("/proc/self/exe").string(), "train"};
  if (!options.print) request.program.emplace_back("--requests-on-stdin");
  if (options.fresh) request.program.emplace_back("--fresh");
  request.program.push_back(options.config);
  request.program.insert(request.program.end(), options.overrides.begin(), options.overrides.end());
  const LaunchFacts facts = this_machine();
  const LaunchCommand command = launch_command(request, facts);
  if (options.print) {
    std::printf("%s\n", command.text().c_str());
    return 0;
  }
  if (!request.slurm && request.hostfile.empty())
    require_open_files(files_of_mpirun(request.ranks), fmt::format("mpirun with {} ranks", request.ranks));
  if (const int slots = slots_for(request, facts); request.ranks > slots)
    log::warn(
        "{} ranks on {} {}{}: they take turns, so a step takes longer than on as many ranks as there are",
        request.ranks, slots, request.hostfile.empty() ? "core" : "slot", slots == 1 ? "" : "s");
  log::info("{}", command.text());
  return run_command(command);
}

}  // namespace

void add_launch_verb(CLI::App& app, Action& chosen) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("launch", "Train on several ranks: run mpirun or srun with all it needs");
  verb->add_option("CONFIG", options->config, "The config, a YAML file")->required();
  verb->add_option("KEY=VALUE", options->overrides, "Overrides, such as train.steps=10");
  verb->add_option("-n,--ranks", options->request.ranks, "Number of ranks")
      ->required()
      ->check(whole_number(1, 1 << 20));
  verb->add_option("--hostfile", options->hostfile, "Nodes for mpirun, lines of 'host slots=N'");
  verb->add_flag("--slurm", options->request.slurm, "Run srun --mpi=pmix, inside a Slurm allocation");
  verb->add_flag("--fresh", options->fresh, "Refuse a checkpoint directory that holds checkpoints");
  verb->add_flag("--print", options->print, "Show the command and stop");
  verb->footer(
      "SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 ask the ranks to save and stop, exit code 75; more of them "
      "change "
      "nothing.\n"
      "SIGQUIT (Ctrl-\\) ends them without a save.\n"
      "Example: tessera launch configs/demo.yaml -n 2 train.steps=100");
  verb->callback([options, &chosen] { chosen = [options] { return launch(*options); }; });
}

}  // namespace tessera
