#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "launch/command_line.h"
#include "launch/inference.h"
#include "launch/sampling.h"

namespace tessera {
namespace {

struct Options {
  InferenceOptions inference;
  SamplingOptions sampling;
  std::vector<std::int32_t> prompt;
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

int run(const Options& options) {
  InferenceModel model(options.inference, 0);
  const std::set<std::int32_t> ends = end_tokens(model.source().description());
  std::vector<std::int32_t> ids = options.prompt;
  const auto vocab = static_cast<std::size_t>(model.source().spec().vocab_size);
  const auto window = static_cast<std::size_t>(model.source().spec().max_positions);
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
    std::printf("%s%d", i == 0 ? "" : " ", next);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  return 0;
}

}  // namespace

void add_generate_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("generate", "Continue a sequence of tokens with a model");
  const auto options = std::make_shared<Options>();
  verb->add_option("MODEL", options->inference.model, "A checkpoint or a Hugging Face directory")->required();
  verb->add_option("--prompt-ids", options->prompt, "Token ids to continue")->required()->delimiter(',');
  verb->add_option("--max-tokens", options->max_tokens, "Tokens to add at most")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  verb->add_option("--temperature", options->sampling.temperature, "0 takes the most likely token each time")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  verb->add_option("--top-p", options->sampling.top_p,
                   "Draw among the fewest tokens whose probabilities reach this")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb->add_option("--seed", options->sampling.seed, "The same seed draws the same tokens")
      ->capture_default_str();
  add_inference_options(*verb, options->inference);
  verb->footer("Example: tessera generate release --prompt-ids 12,7,431 --temperature 0.8 --top-p 0.95");
  verb->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tessera
