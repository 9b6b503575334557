#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "checkpoint/store.h"
#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "data/dataset.h"
#include "launch/batches.h"
#include "launch/command_line.h"
#include "launch/config/config.h"
#include "launch/data_identity.h"
#include "launch/inference.h"
#include "launch/options.h"

namespace tessera {
namespace {

struct Options {
  InferenceOptions inference;
  std::vector<std::string> data;
  std::int64_t seq_len = 0;  // 0: as the run, or up to 512
  std::int64_t batch = 4;
  std::optional<bool> document_mask;
  bool mask = false;  // as typed
  bool precision_given = false;
};

struct Total {
  double loss = 0;  // nats, summed
  std::int64_t counted = 0;
  double text_bytes = 0;  // of the tokens predicted, by the file's mean
};

// Before the weights are read: all files are there, long enough, and in the model's tokens.
std::vector<std::unique_ptr<TokenFile>> open_data(const ModelSource& model, const Options& options) {
  std::vector<std::unique_ptr<TokenFile>> files;
  for (const std::string& path : options.data) {
    files.push_back(std::make_unique<TokenFile>(path));
    const TokenFile& file = *files.back();
    if (file.info().vocab_size > model.spec().vocab_size)
      fail("{}: its vocabulary of {} exceeds the model's {}: it belongs to another tokenizer", path,
           file.info().vocab_size, model.spec().vocab_size);
    if (const std::string conflict = tokenizer_conflict(model, file); !conflict.empty()) fail("{}", conflict);
    require_windows(file, options.seq_len);
  }
  return files;
}

void evaluate(InferenceModel& model, const TokenFile& file, const Options& options, Total& total) {
  const std::int64_t count = windows(file, options.seq_len);
  Device& device = model.device();
  const float one = 1;
  const Tensor unscaled = Tensor::from_host(&one, {1}, DType::f32, device);
  Progress progress("evaluating", static_cast<double>(count * options.seq_len), "tokens");
  const NoGrad no_grad;
  for (std::int64_t first = 0; first < count; first += options.batch) {
    const std::int64_t sequences = std::min(options.batch, count - first);
    std::vector<Sample> samples;
    for (std::int64_t i = first; i < first + sequences; ++i) {
      samples.push_back(window(file, i, options.seq_len, *options.document_mask));
      total.counted += samples.back().counted;
    }
    double loss = 0;
    model.model().loss(make_batch(samples, *options.document_mask, device), unscaled).to_host(&loss);
    total.loss += loss;
    progress.advance(static_cast<double>(sequences * options.seq_len));
  }
  total.text_bytes += static_cast<double>(file.info().text_bytes) *
                      static_cast<double>(count * options.seq_len) / static_cast<double>(file.info().tokens);
}

// What the command line leaves open is as in the run's own validation.
void take_settings(Options& options, const Config& config) {
  if (!options.precision_given) options.inference.precision = name_of(config.train.precision);
  if (options.seq_len == 0) options.seq_len = config.data.seq_len;
  if (!options.document_mask) options.document_mask = config.data.document_mask;
}

// A config stands for the newest checkpoint of its run, its data settings and its validation files.
void take_config(Options& options) {
  const Config config = load_config(options.inference.model);
  options.inference.model = config.checkpoint.dir;
  if (options.inference.threads == 0 && config.train.threads)
    options.inference.threads = *config.train.threads;
  take_settings(options, config);
  if (options.data.empty())
    for (const Source& source : config.data.valid) options.data.push_back(source.path);
}

// The config of the run that saved the checkpoint at `path`; nothing for what no run saved.
std::optional<Config> config_of_run(const std::string& path) {
  if (!is_checkpoint(path)) return std::nullopt;
  const LoadedCheckpoint checkpoint = open_checkpoint(path);
  const auto config = checkpoint.meta().find("config");
  if (config == checkpoint.meta().end()) return std::nullopt;
  return config_from_json(config->dump(), checkpoint.path().string());
}

int run(Options options) {
  const bool of_config = std::filesystem::is_regular_file(options.inference.model);
  if (of_config) take_config(options);
  if (options.data.empty())
    fail_usage("--data is missing: name a token file, made by `tessera data prepare`");
  ModelSource source = open_model(options.inference.model);
  if (const auto config = of_config ? std::nullopt : config_of_run(source.origin()))
    take_settings(options, *config);
  if (options.seq_len == 0) options.seq_len = std::min<std::int64_t>(512, source.spec().max_positions);
  if (!options.document_mask) options.document_mask = false;
  const auto files = open_data(source, options);
  log::info("{}, windows of {} tokens, {}", options.inference.precision, options.seq_len,
            *options.document_mask ? "documents masked" : "documents not masked");
  InferenceModel model(std::move(source), options.inference, {options.batch, options.seq_len, false});
  Total total;
  for (const auto& file : files) evaluate(model, *file, options, total);
  if (total.counted == 0) fail("no target is counted: every document is a single token");
  const double loss = total.loss / static_cast<double>(total.counted);
  std::printf("loss: %.5f  perplexity: %.4f", loss, std::exp(loss));
  // Loss per token times tokens per byte; with masked documents the targets that cross into a document are
  // taken to cost what the others do.
  if (total.text_bytes > 0) {
    double tokens = 0;
    for (const auto& file : files)
      tokens += static_cast<double>(windows(*file, options.seq_len) * options.seq_len);
    std::printf("  bits_per_byte: %.5f", loss / std::numbers::ln2 * tokens / total.text_bytes);
  }
  std::printf("  tokens: %lld\n", static_cast<long long>(total.counted));
  return 0;
}

}  // namespace

void add_eval_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("eval", "Loss, perplexity and bits per byte of a model on token files");
  const auto options = std::make_shared<Options>();
  verb->add_option("MODEL", options->inference.model,
                   "A checkpoint, a Hugging Face directory, or a config (the newest checkpoint of its run)")
      ->required();
  verb->add_option("--data", options->data, "Token files; a config's validation files by default");
  verb->add_option("--seq-len", options->seq_len,
                   "Tokens of a window; by default the run's, of a release up to 512")
      ->check(whole_number(1, 1 << 24));
  verb->add_option("--batch", options->batch, "Sequences of a forward pass")
      ->check(whole_number(1, 4096))
      ->capture_default_str();
  const CLI::Option* const mask =
      verb->add_flag("--document-mask,!--no-document-mask", options->mask,
                     "Attention and positions restart at documents, or do not; by default as in the run");
  add_inference_options(*verb, options->inference);
  verb->footer(
      "A checkpoint is evaluated as its run validates: same windows, document mask and precision, unless "
      "told.\n"
      "Example: tessera eval checkpoints/demo --data valid.h5");
  verb->callback([verb, mask, options, &chosen] {
    options->precision_given = verb->count("--precision") > 0;
    if (mask->count() > 0) options->document_mask = options->mask;
    chosen = [options] { return run(*options); };
  });
}

}  // namespace tessera
