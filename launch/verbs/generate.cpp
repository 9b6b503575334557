#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/base/standard_output.h"
#include "data/text.h"
#include "data/tokenizer/tokenizer.h"
#include "launch/command_line.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/sampling.h"

namespace tessera {
namespace {

struct Options {
  InferenceOptions inference;
  SamplingOptions sampling;
  std::string prompt;  // text, or else
  std::vector<std::int32_t> prompt_ids;
  std::int64_t max_tokens = 100;
};

// Ids that end a text: those of generation_config.json and of the config.
std::set<std::int32_t> end_tokens(const ModelDescription& description) {
  std::set<std::int32_t> ids;
  const auto take = [&](const Json& config) {
    if (!config.is_object() || !config.contains("eos_token_id")) return;
    const Json& value = config.at("eos_token_id");
    for (const Json& id : value.is_array() ? value : Json::array({value}))
      if (id.is_number_integer()) ids.insert(id.get<std::int32_t>());
  };
  take(*description.release.config);
  if (const auto file = description.files.find("generation_config.json"); file != description.files.end())
    take(parse_json(file->second, "generation_config.json"));
  return ids;
}

// Prints what ids add to a text, holding back bytes of a character that is not complete yet.
class TextPrinter {
 public:
  explicit TextPrinter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void print(std::uint32_t id, bool last) {
    held_ += tokenizer_.decode(std::span(&id, 1));
    std::string ready = held_;
    const auto cut = first_invalid_utf8(held_);
    if (cut && !last && held_.size() - *cut < 4) ready.resize(*cut);
    held_.erase(0, ready.size());
    repair_utf8(ready);
    standard_output::write(ready);
  }

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

std::optional<Tokenizer> tokenizer_of(const ModelSource& source) {
  const auto& files = source.description().files;
  const auto file = files.find("tokenizer.json");
  if (file == files.end()) return std::nullopt;
  return Tokenizer::from_json_text(file->second, source.origin() + ": tokenizer.json");
}

int run(const Options& options) {
  ModelSource source = open_model(options.inference.model);
  const auto tokenizer = options.prompt_ids.empty() ? tokenizer_of(source) : std::nullopt;
  if (!tokenizer && options.prompt_ids.empty())
    fail_usage("'{}' has no tokenizer: give token ids with --prompt-ids", source.origin());
  if (tokenizer && first_invalid_utf8(options.prompt)) fail_usage("--prompt is not UTF-8");
  const std::set<std::int32_t> ends = end_tokens(source.description());
  std::vector<std::int32_t> ids = options.prompt_ids;
  if (tokenizer)
    for (const std::uint32_t id : tokenizer->encode(options.prompt, true))
      ids.push_back(static_cast<std::int32_t>(id));
  if (ids.empty()) fail_usage("the prompt is empty");
  const auto vocab = static_cast<std::size_t>(source.spec().vocab_size);
  const auto window = static_cast<std::size_t>(source.spec().max_positions);
  const std::size_t longest = std::min(window, ids.size() + static_cast<std::size_t>(options.max_tokens) - 1);
  InferenceModel model(std::move(source), options.inference, {1, static_cast<std::int64_t>(longest)});
  std::optional<TextPrinter> printer;
  if (tokenizer) {
    printer.emplace(*tokenizer);
    standard_output::write(options.prompt);
  }
  std::vector<float> last(vocab);
  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    const std::size_t begin = ids.size() > window ? ids.size() - window : 0;
    const std::span context = std::span(ids).subspan(begin);
    const auto length = static_cast<std::int64_t>(context.size());
    const Tensor logits = model.logits(context, 1, "--prompt-ids");
    logits.view({length, static_cast<std::int64_t>(vocab)}).narrow(0, length - 1, 1).to_host(last.data());
    if (!std::all_of(last.begin(), last.end(), [](float x) { return std::isfinite(x); }))
      fail("{}: the model's logits are not finite", model.source().origin());
    const std::int32_t next = draw_token(last, options.sampling, static_cast<std::uint64_t>(i));
    if (ends.contains(next)) break;
    ids.push_back(next);
    if (printer)
      printer->print(static_cast<std::uint32_t>(next), i + 1 == options.max_tokens);
    else
      standard_output::print("{}{}", i == 0 ? "" : " ", next);
    standard_output::flush();
  }
  standard_output::write("\n");
  return 0;
}

}  // namespace

void add_generate_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("generate", "Continue a text with a model");
  const auto options = std::make_shared<Options>();
  verb->add_option("MODEL", options->inference.model, "A checkpoint or a Hugging Face directory")->required();
  auto* text = verb->add_option("--prompt", options->prompt, "Text to continue");
  auto* ids = verb->add_option("--prompt-ids", options->prompt_ids, "Token ids to continue")
                  ->delimiter(',')
                  ->check(whole_number(0, std::numeric_limits<std::int32_t>::max()));
  text->excludes(ids);
  verb->add_option("--max-tokens", options->max_tokens, "Tokens to add at most")
      ->check(whole_number(1, 1 << 24))
      ->capture_default_str();
  verb->add_option("--temperature", options->sampling.temperature, "0 takes the most likely token each time")
      ->check(real_number(0, 100))
      ->capture_default_str();
  verb->add_option("--top-p", options->sampling.top_p,
                   "Draw among the fewest tokens whose probabilities reach this")
      ->check(real_number(0, 1))
      ->capture_default_str();
  verb->add_option("--seed", options->sampling.seed, "The same seed draws the same tokens")
      ->check(whole_number(0))
      ->capture_default_str();
  add_inference_options(*verb, options->inference);
  verb->footer("Example: tessera generate release --prompt \"Once upon\" --temperature 0.8 --top-p 0.95");
  verb->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tessera
