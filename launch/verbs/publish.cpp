#include "checkpoint/publish.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>

#include "checkpoint/hf_config.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "launch/command_line.h"
#include "launch/estimate.h"
#include "launch/inference.h"
#include "launch/options.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Options {
  PublishOptions publish;
  std::string from, to, dtype, max_shard_size = "5GB";
  int threads = 0;
};

DType dtype_of(const std::string& text) {
  const std::map<std::string, DType> names{{"fp32", DType::f32},  {"float32", DType::f32},
                                           {"bf16", DType::bf16}, {"bfloat16", DType::bf16},
                                           {"fp16", DType::f16},  {"float16", DType::f16}};
  if (const auto found = names.find(text); found != names.end()) return found->second;
  fail_usage("--dtype '{}' is unknown; there are: fp32, bf16, fp16{}", text,
             did_you_mean(text, std::vector<std::string>{"fp32", "bf16", "fp16"}));
}

// "5GB" is 5 × 10⁹ bytes, "5GiB" 5 × 2³⁰, as in transformers.
std::uint64_t bytes_of_size(const std::string& text) {
  const std::map<std::string, double> units{{"", 1},       {"B", 1},           {"KB", 1e3},
                                            {"MB", 1e6},   {"GB", 1e9},        {"TB", 1e12},
                                            {"KiB", 1024}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
  std::size_t used = 0;
  double number = 0;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const auto unit = units.find(used == 0 ? "?" : text.substr(used));
  if (unit == units.end() || !(number > 0) || number * unit->second < 1 || number * unit->second > 1e18)
    fail_usage("--max-shard-size '{}' is not a size such as 5GB or 500MB", text);
  return static_cast<std::uint64_t>(number * unit->second);
}

// It becomes a line of the model card's front matter.
void check_license(const std::string& license) {
  const bool plain = std::all_of(license.begin(), license.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '+' || c == '_';
  });
  if (!plain || license.size() > 64)
    fail_usage("--license '{}' is no identifier such as apache-2.0 (letters, digits, '.', '-', '+', '_')",
               license);
}

// Whether `path` is the folder, or lies in it.
bool is_inside(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  for (fs::path at = fs::weakly_canonical(path, error); !at.empty(); at = at.parent_path()) {
    if (fs::equivalent(at, folder, error)) return true;
    if (at == at.root_path()) break;
  }
  return false;
}

int run(Options options) {
  options.publish.to = options.to;
  if (!options.dtype.empty()) options.publish.dtype = dtype_of(options.dtype);
  options.publish.max_shard_bytes = bytes_of_size(options.max_shard_size);
  check_license(options.publish.license);
  check_destination(options.publish);
  if (is_inside(options.from, options.to))
    fail_usage("'{}' is read, and lies in '{}', which would be replaced; choose a new directory",
               options.from, options.to);
  const auto device = make_inference_device(options.threads);
  const ModelSource source = open_model(options.from);
  require_room(*device, estimate_inference(source.spec(), {DType::f32, Recompute::none, 64}, 2, true),
               fmt::format("comparing '{}' with the release", source.origin()));
  const Published result = publish(source, options.publish, *device);
  if (!result.has_tokenizer) log::info("the checkpoint has no tokenizer: the release has none either");
  std::printf(
      "published %s: %lld parameters in %s, %s in %d file%s; logits equal the checkpoint's bit for bit\n",
      options.to.c_str(), static_cast<long long>(result.parameters), torch_name(result.dtype),
      bytes_text(static_cast<double>(result.bytes)).c_str(), result.shards, result.shards == 1 ? "" : "s");
  return 0;
}

}  // namespace

void add_publish_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("publish", "Turn a checkpoint into a Hugging Face release");
  const auto options = std::make_shared<Options>();
  verb->add_option("CKPT", options->from, "A checkpoint, or a directory of them (the newest good one)")
      ->required();
  verb->add_option("OUT", options->to, "Directory to write: new, empty, or an earlier release of Tessera's")
      ->required();
  verb->add_option("--dtype", options->dtype,
                   "fp32, bf16 or fp16; by default the import's, else the training precision");
  verb->add_option("--max-shard-size", options->max_shard_size,
                   "Weights above this are cut into several files")
      ->capture_default_str();
  verb->add_option("--license", options->publish.license, "License for the model card, such as apache-2.0")
      ->check(not_empty());
  verb->add_flag("--force", options->publish.force, "Replace OUT even if Tessera did not publish it");
  verb->add_option("--threads", options->threads, "Threads; all cores if not given")
      ->check(whole_number(1, 4096));
  verb->footer("Example: tessera publish checkpoints/demo release --dtype bf16");
  verb->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tessera
