#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>

#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/thread_pool.h"
#include "data/bigram.h"
#include "data/dataset.h"
#include "data/prepare.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/options.h"
#include "launch/output.h"

namespace tessera {
namespace {

void report(const std::string& path, const TokenFileInfo& info) {
  log::info("wrote {}: {} tokens, {} documents, {:.2f} bytes of text a token", path, info.tokens,
            info.documents, static_cast<double>(info.text_bytes) / static_cast<double>(info.tokens));
}

void add_prepare(CLI::App& data, Action& chosen) {
  CLI::App* verb = data.add_subcommand("prepare", "Tokenize text into a token file for training");
  auto options = std::make_shared<PrepareOptions>();
  auto tokenizer = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  options->threads = available_cpus();
  verb->add_option("inputs", options->inputs, "Files: .txt or .jsonl, each also .gz or .zst")->required();
  verb->add_option("--tokenizer", *tokenizer, "tokenizer.json")->required();
  verb->add_option("--out", options->out, "The token file to write, F.h5")->required();
  verb->add_option("--documents", options->documents.split,
                   "How .txt splits: file, blank-line, or a pattern whose matching line begins a document")
      ->capture_default_str();
  verb->add_option("--text-key", options->documents.text_key, "The key of the text in .jsonl")
      ->capture_default_str();
  verb->add_option("--valid-fraction", options->valid_fraction, "Share of documents that go to F.valid.h5")
      ->check(real_number(0, 0.9));
  verb->add_option("--eos", options->eos, "Token that ends each document (default: the tokenizer's)");
  verb->add_flag("--parse-special", options->parse_special,
                 "Special tokens written in the text become their ids");
  verb->add_flag("--strict", options->documents.strict,
                 "Refuse invalid UTF-8 in .txt instead of repairing it");
  verb->add_option("--threads", options->threads, "Threads")
      ->capture_default_str()
      ->check(whole_number(1, 1024));
  Outputs::add_option(*verb, *force);
  verb->footer(
      "Example:\n  tessera data prepare --tokenizer tokenizer.json --out train.h5 --valid-fraction 0.01 "
      "corpus.txt");
  verb->callback([options, tokenizer, force, &chosen] {
    chosen = [options, tokenizer, force] {
      std::vector<std::filesystem::path> inputs(options->inputs.begin(), options->inputs.end());
      inputs.emplace_back(*tokenizer);
      inputs.push_back(std::filesystem::path(*tokenizer).replace_filename("tokenizer_config.json"));
      Outputs outputs(std::move(inputs), *force);
      outputs.settle("--out", options->out, token_file_output());
      if (options->valid_fraction > 0)
        outputs.settle("beside --out,", valid_path(options->out), token_file_output());
      const Prepared prepared = prepare(Tokenizer::load(*tokenizer), *options);
      report(options->out, prepared.train);
      if (prepared.valid) report(valid_path(options->out), *prepared.valid);
      return 0;
    };
  });
}

void add_bigram(CLI::App& data, Action& chosen) {
  CLI::App* verb = data.add_subcommand("bigram", "A bigram model's loss: what a model must beat");
  auto train = std::make_shared<std::string>();
  auto valid = std::make_shared<std::string>();
  verb->add_option("train", *train, "Token file to count")->required();
  verb->add_option("valid", *valid, "Token file to predict")->required();
  verb->footer("Example:\n  tessera data bigram train.h5 train.valid.h5");
  verb->callback([train, valid, &chosen] {
    chosen = [train, valid] {
      const double loss = bigram_loss(TokenFile(*train), TokenFile(*valid));
      std::printf("bigram loss %.4f nats a token\n", loss);
      return 0;
    };
  });
}

struct InspectArguments {
  std::string config, steps, out;
  std::vector<std::string> overrides;
  bool force = false;
};

// What the config names, and itself.
std::vector<std::filesystem::path> files_of(const std::string& path, const Config& config) {
  std::vector<std::filesystem::path> files{path};
  for (const auto& sources : {config.data.train, config.data.valid})
    for (const Source& source : sources) files.emplace_back(source.path);
  for (const auto& file : {config.data.tokenizer, config.init.from})
    if (file) files.emplace_back(*file);
  files.emplace_back(config.checkpoint.dir);
  return files;
}

struct StepRange {
  std::int64_t begin = 0, end = 0;
};

// "A:B", steps A to B − 1.
StepRange parse_steps(const std::string& text) {
  StepRange range;
  const char* const last = text.data() + text.size();
  const auto first = std::from_chars(text.data(), last, range.begin);
  const bool colon = first.ec == std::errc() && first.ptr != last && *first.ptr == ':';
  const auto second = std::from_chars(colon ? first.ptr + 1 : last, last, range.end);
  if (!colon || second.ec != std::errc() || second.ptr != last || range.begin < 0 || range.end <= range.begin)
    fail_usage("--steps '{}' is not A:B with 0 <= A < B (B is not included)", text);
  return range;
}

int inspect(const InspectArguments& arguments) {
  const StepRange range = parse_steps(arguments.steps);
  const Config config = load_config(arguments.config, arguments.overrides);
  Outputs outputs(files_of(arguments.config, config), arguments.force);
  io::NewFile out(outputs.settle("--out", arguments.out, tokens_output()));
  std::vector<SourceSpec> sources;
  for (const Source& source : config.data.train) sources.push_back({source.path, source.weight});
  const Dataset dataset(sources, config.data.seq_len, config.data.document_mask, config.data.seed);

  const std::int64_t batch = config.train.global_batch;
  if (range.end > (std::int64_t{1} << 59) / batch / config.data.seq_len)
    fail_usage("--steps '{}': no file could hold so many tokens", arguments.steps);
  const std::int64_t steps = range.end - range.begin;
  SafetensorsTensor tokens;
  tokens.name = "tokens";
  tokens.dtype = DType::i32;
  tokens.shape = {steps, batch, config.data.seq_len + 1};
  SafetensorsWriter writer(std::move(out), {tokens}, tokens_writer);
  Progress progress("reading", static_cast<double>(steps * batch), "sequences");
  std::uint64_t offset = 0;
  for (std::int64_t i = range.begin * batch; i < range.end * batch; ++i) {
    const Sample sample = dataset.sample(static_cast<std::uint64_t>(i));
    writer.write("tokens", offset, std::as_bytes(std::span(sample.tokens)));
    offset += sample.tokens.size() * sizeof(std::int32_t);
    progress.advance(1);
  }
  writer.finish();
  log::info("wrote {}: tokens I32 [{}, {}, {}] of steps {} to {}", arguments.out, steps, batch,
            config.data.seq_len + 1, range.begin, range.end - 1);
  return 0;
}

void add_inspect(CLI::App& data, Action& chosen) {
  CLI::App* verb = data.add_subcommand("inspect", "Write exactly what some steps of a run train on");
  auto arguments = std::make_shared<InspectArguments>();
  verb->add_option("config", arguments->config, "The run's YAML file")->required();
  verb->add_option("overrides", arguments->overrides, "Config keys to change: data.seed=2");
  verb->add_option("--steps", arguments->steps, "A:B, from step A up to but not including B")->required();
  verb->add_option("--out", arguments->out, "File to write: tokens, I32 [steps, batch, seq+1]")->required();
  Outputs::add_option(*verb, arguments->force);
  verb->footer("Example:\n  tessera data inspect configs/demo.yaml --steps 0:10 --out batches.safetensors");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return inspect(*arguments); }; });
}

}  // namespace

void add_data_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("data", "Prepare token files, and look at what a run trains on");
  verb->require_subcommand(1);
  add_prepare(*verb, chosen);
  add_inspect(*verb, chosen);
  add_bigram(*verb, chosen);
}

}  // namespace tessera
