#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/progress.h"
#include "launch/command_line.h"
#include "launch/inference.h"
#include "launch/output.h"

namespace tessera {
namespace {

struct Options {
  InferenceOptions inference;
  std::string tokens, out;
  bool force = false;
};

// Logits held at a time, in elements.
constexpr std::int64_t batch_elements = std::int64_t{1} << 25;

int run(const Options& options) {
  Outputs outputs({options.tokens, options.inference.model}, options.force);
  io::NewFile out(outputs.settle("--out", options.out, logits_output()));
  const SafetensorsFile file = SafetensorsFile::open(options.tokens);
  const SafetensorsTensor& tensor = file.at("tokens");
  if (tensor.shape.size() != 2 || tensor.dtype != DType::i32 || tensor.numel() == 0)
    fail("{}: 'tokens' must be I32 of shape [n, seq] and not empty", options.tokens);
  const std::int64_t sequences = tensor.shape[0];
  const std::int64_t length = tensor.shape[1];
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(tensor.numel()));
  file.read(tensor, 0, std::as_writable_bytes(std::span(tokens)));

  ModelSource source = open_model(options.inference.model);
  const std::int64_t vocab = source.spec().vocab_size;
  const std::int64_t step =
      std::clamp<std::int64_t>(batch_elements / std::max<std::int64_t>(1, length * vocab), 1, sequences);
  InferenceModel model(std::move(source), options.inference, {step, length});
  SafetensorsWriter writer(std::move(out), {{"logits", DType::f32, {sequences, length, vocab}}},
                           logits_writer);
  Progress progress("logits", static_cast<double>(sequences * length), "tokens");
  std::vector<float> block;
  for (std::int64_t first = 0; first < sequences; first += step) {
    const std::int64_t count = std::min(step, sequences - first);
    const auto rows = std::span(tokens).subspan(static_cast<std::size_t>(first * length),
                                                static_cast<std::size_t>(count * length));
    const Tensor logits = model.logits(rows, count, options.tokens);
    block.resize(static_cast<std::size_t>(logits.numel()));
    logits.to_host(block.data());
    writer.write_floats("logits", first * length * vocab, block);
    progress.advance(static_cast<double>(count * length));
  }
  writer.finish();
  return 0;
}

}  // namespace

void add_logits_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("logits", "Write a model's logits for given tokens");
  const auto options = std::make_shared<Options>();
  verb->add_option("MODEL", options->inference.model, "A checkpoint or a Hugging Face directory")->required();
  verb->add_option("--tokens", options->tokens, "safetensors file with 'tokens', I32 [n, seq]")->required();
  verb->add_option("--out", options->out, "safetensors file to write: 'logits', F32 [n, seq, vocab]")
      ->required();
  Outputs::add_option(*verb, options->force);
  add_inference_options(*verb, options->inference);
  verb->footer("Example: tessera logits release --tokens tokens.safetensors --out logits.safetensors");
  verb->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tessera
