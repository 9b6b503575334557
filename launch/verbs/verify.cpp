#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/hf_config.h"
#include "core/base/error.h"
#include "core/base/standard_output.h"
#include "core/models/family.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/origin.h"
#include "launch/verify/report.h"

namespace tessera {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: as many as the config's axes need
  bool all = false;
  bool fast = false;
  std::string mpi_rank;  // the folder of a process that check_mpi started
  std::string precision = "fp32";
  DeviceKind device = DeviceKind::cpu;
};

// The model from the config alone: no file of tokens is opened.
ReleaseConfig release_of(const Config& config) {
  Json keys = *config.model.keys;
  const Family& family = find_family(config.model.family);
  if (!keys.contains("max_position_embeddings")) {
    const Json full = complete_config(family, keys, "model", false);
    keys["max_position_embeddings"] =
        std::max(config.data.seq_len, full.at("max_position_embeddings").get<std::int64_t>());
  }
  return make_release_config(family, keys, "model");
}

constexpr int most_ranks = 1024;  // threads

int least_ranks(const LayoutRequest& request) {
  const MeshRequest& mesh = request.mesh;
  const double model = 1.0 * mesh.pp * mesh.cp * mesh.tp;
  const double experts = std::ceil(1.0 * mesh.ep * mesh.etp / mesh.cp / mesh.tp);
  const double dp = mesh.dp ? *mesh.dp : std::max(request.zero > 0 ? 2.0 : 1.0, experts);
  const double ranks = mesh.dp ? model * dp : std::max(model * dp, model == 1 ? 2.0 : 1.0);
  if (ranks > most_ranks)
    fail_usage("the axes of parallel need {:.0f} ranks; verify runs up to {}", ranks, most_ranks);
  return static_cast<int>(ranks);
}

verify::VerifyOptions options_of(const Arguments& arguments) {
  verify::VerifyOptions options;
  options.bf16 = arguments.precision == "bf16";
  options.fast = arguments.fast || arguments.all;
  options.place = verify::place_on(arguments.device);
  return options;
}

int check_one(const Config& config, const ReleaseConfig& release, const ParallelLayout& layout,
              const Arguments& arguments) {
  verify::VerifyOptions options = options_of(arguments);
  if (arguments.device == DeviceKind::cpu) {
    options.mpi_program = {std::filesystem::read_symlink("/proc/self/exe").string(), "verify",
                           arguments.config};
    options.mpi_program.insert(options.mpi_program.end(), arguments.overrides.begin(),
                               arguments.overrides.end());
    options.mpi_program.insert(options.mpi_program.end(),
                               {"--ranks", std::to_string(layout.mesh.ranks()), "--mpi-rank"});
  }
  const verify::Verdict verdict = verify::verify_layout(config, release, layout, options);
  const verify::Subject& tiny = verdict.small.subject;
  std::printf(
      "%s, scaled down: %zu layers, hidden size %lld, vocabulary %lld, %lld tokens; %lld sequences a step, "
      "%d steps\n%s",
      config.model.family.c_str(), tiny.spec.layers.size(), static_cast<long long>(tiny.spec.hidden_size),
      static_cast<long long>(tiny.spec.vocab_size), static_cast<long long>(tiny.batch.seq_len),
      static_cast<long long>(tiny.batch.global_batch), tiny.steps, verify::report(verdict).c_str());
  return verdict.fault ? 1 : 0;
}

int check_all(const Config& config, const ReleaseConfig& release, const BatchShape& batch, int ranks,
              const Arguments& arguments) {
  int faults = 0;
  const std::vector<ParallelLayout> layouts = all_layouts(config.parallel.layout, release.spec, batch, ranks);
  if (layouts.empty())
    fail_usage("no layout of {} ranks fits this config; global_batch has {} microbatches", ranks,
               batch.microbatches());
  for (const ParallelLayout& layout : layouts) {
    const verify::Verdict verdict = verify::verify_layout(config, release, layout, options_of(arguments));
    standard_output::print("{}  {:<44}  {}\n", verdict.fault ? "NO " : "yes", text(layout),
                           verify::verdict(verdict));
    standard_output::flush();
    faults += verdict.fault ? 1 : 0;
  }
  std::printf("%zu layouts of %d ranks, %d at fault\n", layouts.size(), ranks, faults);
  return faults == 0 ? 0 : 1;
}

int verify_config(const Arguments& arguments) {
  Config config = load_config(arguments.config, arguments.overrides);
  take_origin(config);
  const ReleaseConfig release = release_of(config);
  const BatchShape batch{config.train.global_batch, config.train.micro_batch, config.data.seq_len};
  const int ranks = arguments.ranks > 0 ? arguments.ranks : least_ranks(config.parallel.layout);
  if (arguments.all) return check_all(config, release, batch, ranks, arguments);
  const ParallelLayout layout = plan_layout(config.parallel.layout, release.spec, batch, ranks);
  if (!arguments.mpi_rank.empty())
    return verify::verify_mpi_rank(config, release, layout, arguments.mpi_rank);
  return check_one(config, release, layout, arguments);
}

}  // namespace

void add_verify_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb =
      app.add_subcommand("verify", "Prove that a config's layout over ranks computes what one rank does");
  auto arguments = std::make_shared<Arguments>();
  verb->add_option("config", arguments->config, "The run's YAML file")->required();
  verb->add_option("overrides", arguments->overrides, "Config keys to change: parallel.tp=2");
  verb->add_option("--ranks", arguments->ranks,
                   "Ranks of the layout, as threads; by default the fewest that its axes need")
      ->check(whole_number(1, most_ranks));
  verb->add_flag("--all", arguments->all, "Try every valid layout of that many ranks instead, --fast");
  verb->add_flag("--fast", arguments->fast,
                 "Compare steps alone: leave out data, import, save, resume, validation and MPI");
  verb->add_option("--mpi-rank", arguments->mpi_rank)->group("");  // for verify itself
  verb->add_option("--precision", arguments->precision, "Compute in fp32, or in fp32 and then in bf16")
      ->check(one_of({"fp32", "bf16"}))
      ->capture_default_str();
  add_device_option(*verb, arguments->device);
  verb->footer(
      "Example:\n"
      "  tessera verify configs/llama-3.1-8b.yaml parallel.tp=2 parallel.zero=1 --ranks 4\n\n"
      "Scales the model down, keeps every kind of layer, mask, group and bound, runs one rank and the layout "
      "for three\n"
      "steps on random tokens, and compares activations, loss, gradients, norm and weights. Then the layout "
      "imports,\n"
      "reads data, saves, validates and resumes, and runs once more under mpirun, where that is installed "
      "and "
      "ranks are\n"
      "eight at most. Exit code 0 says that all agrees, 1 that it does not.");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return verify_config(*arguments); }; });
}

}  // namespace tessera
