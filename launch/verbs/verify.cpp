#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoint/hf_config.h"
#include "core/base/error.h"
#include "core/models/family.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/inference.h"
#include "launch/verify/report.h"
#include "launch/verify/shrink.h"

namespace tessera {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: as many as the config's axes need
  bool all = false;
  std::string precision = "fp32";
  DeviceKind device = DeviceKind::cpu;
};

// The model's spec from the config alone: no file of tokens is opened.
ModelSpec spec_of(const Config& config) {
  Json keys = *config.model.keys;
  const Family& family = find_family(config.model.family);
  if (!keys.contains("max_position_embeddings")) {
    const Json full = complete_config(family, keys, "model", false);
    keys["max_position_embeddings"] =
        std::max(config.data.seq_len, full.at("max_position_embeddings").get<std::int64_t>());
  }
  return make_release_config(family, keys, "model").spec;
}

int least_ranks(const LayoutRequest& request) {
  const MeshRequest& mesh = request.mesh;
  const int model = mesh.pp * mesh.cp * mesh.tp;
  if (mesh.dp) return model * *mesh.dp;
  const int experts = mesh.ep * mesh.etp;
  const int dp = std::max(request.zero > 0 ? 2 : 1, (experts + mesh.cp * mesh.tp - 1) / (mesh.cp * mesh.tp));
  return std::max(model * dp, model == 1 ? 2 : 1);
}

verify::Comparison check(const Config& config, const ModelSpec& spec, const ParallelLayout& layout,
                         const Arguments& arguments, verify::Small& small) {
  const DType compute = arguments.precision == "bf16" ? DType::bf16 : DType::f32;
  const verify::Place place = verify::place_on(arguments.device);
  small = verify::shrink(config, spec, layout, compute);
  const verify::Record one = verify::run(small.subject, {}, nullptr, place);
  const verify::Record many = verify::run(small.subject, small.layout, &one.choices, place);
  return verify::compare(small.subject, small.layout, one, many);
}

int check_one(const Config& config, const ModelSpec& spec, const ParallelLayout& layout,
              const Arguments& arguments) {
  verify::Small small;
  const verify::Comparison result = check(config, spec, layout, arguments, small);
  const ModelSpec& tiny = small.subject.spec;
  std::printf(
      "%s, scaled down: %zu layers, hidden size %lld, vocabulary %lld, %lld tokens; %lld sequences a step, "
      "%d steps\n\n%s",
      config.model.family.c_str(), tiny.layers.size(), static_cast<long long>(tiny.hidden_size),
      static_cast<long long>(tiny.vocab_size), static_cast<long long>(small.subject.batch.seq_len),
      static_cast<long long>(small.subject.batch.global_batch), small.subject.steps,
      verify::report(small.subject, small.layout, result).c_str());
  return result.fault ? 1 : 0;
}

int check_all(const Config& config, const ModelSpec& spec, const BatchShape& batch, int ranks,
              const Arguments& arguments) {
  int faults = 0;
  const std::vector<ParallelLayout> layouts = all_layouts(config.parallel.layout, spec, batch, ranks);
  if (layouts.empty())
    fail_usage("no layout of {} ranks fits this config; global_batch has {} microbatches", ranks,
               batch.microbatches());
  for (const ParallelLayout& layout : layouts) {
    verify::Small small;
    const verify::Comparison result = check(config, spec, layout, arguments, small);
    std::printf("%s  %-44s  %s\n", result.fault ? "NO " : "yes", text(layout).c_str(),
                verify::verdict(result).c_str());
    std::fflush(stdout);
    faults += result.fault ? 1 : 0;
  }
  std::printf("%zu layouts of %d ranks, %d at fault\n", layouts.size(), ranks, faults);
  return faults == 0 ? 0 : 1;
}

int verify_config(const Arguments& arguments) {
  const Config config = load_config(arguments.config, arguments.overrides);
  const ModelSpec spec = spec_of(config);
  const BatchShape batch{config.train.global_batch, config.train.micro_batch, config.data.seq_len};
  const int ranks = arguments.ranks > 0 ? arguments.ranks : least_ranks(config.parallel.layout);
  if (arguments.all) return check_all(config, spec, batch, ranks, arguments);
  return check_one(config, spec, plan_layout(config.parallel.layout, spec, batch, ranks), arguments);
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
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--all", arguments->all, "Try every valid layout of that many ranks instead");
  verb->add_option("--precision", arguments->precision, "Compute in fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  add_device_option(*verb, arguments->device);
  verb->footer(
      "Example:\n"
      "  tessera verify configs/llama-3.1-8b.yaml parallel.tp=2 parallel.zero=1 --ranks 4\n\n"
      "Scales the model down, keeps its structure and the layout, runs both for three steps on random "
      "tokens, and\n"
      "compares activations, loss, gradients, norm and weights. Exit code 0 says that they agree, 1 that "
      "they do not.");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return verify_config(*arguments); }; });
}

}  // namespace tessera
