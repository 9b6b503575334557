#include "checkpoint/release_files.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace tessera {
namespace {

std::string json_text(const Json& json) {
  return json.dump(2) + "\n";
}

// The text of an added token, from tokenizer.json; empty if there is none of that id.
std::string token_text(const Json& tokenizer, const Json& id) {
  if (!tokenizer.is_object()) return "";
  const auto added = tokenizer.find("added_tokens");
  if (added == tokenizer.end() || !added->is_array()) return "";
  for (const Json& token : *added)
    if (token.is_object() && token.value("id", Json()) == id && token.contains("content") &&
        token["content"].is_string())
      return token["content"].get<std::string>();
  return "";
}

std::string generation_config(const Json& config) {
  Json out = Json::object();
  out["_from_model_config"] = true;
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (const auto found = config.find(key); found != config.end() && !found->is_null()) out[key] = *found;
  out["transformers_version"] = config.at("transformers_version");
  return json_text(out);
}

void add_tokenizer_config(std::map<std::string, std::string>& files, const Json& config) {
  const Json tokenizer = parse_json(files.at("tokenizer.json"), "tokenizer.json");
  Json out = Json::object();
  Json special = Json::object();
  for (const auto& [key, token] :
       {std::pair("bos_token_id", "bos_token"), std::pair("eos_token_id", "eos_token"),
        std::pair("pad_token_id", "pad_token")}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    const std::string text =
        token_text(tokenizer, found->is_array() && !found->empty() ? found->at(0) : *found);
    if (!text.empty()) special[token] = text;
  }
  out["clean_up_tokenization_spaces"] = false;
  for (const auto& [key, value] : special.items()) out[key] = value;
  out["model_max_length"] = config.at("max_position_embeddings");
  out["tokenizer_class"] = "PreTrainedTokenizerFast";
  files["tokenizer_config.json"] = json_text(out);
  if (!special.empty() && !files.contains("special_tokens_map.json"))
    files["special_tokens_map.json"] = json_text(special);
}

// The value of a plain "key: value" line of a card's front matter.
std::string front_matter(const std::string& card, const std::string& key) {
  if (!card.starts_with("---\n")) return "";
  const std::size_t end = card.find("\n---", 3);
  const std::size_t at = card.find("\n" + key + ": ");
  if (end == std::string::npos || at == std::string::npos || at > end) return "";
  const std::size_t begin = at + key.size() + 3;
  return card.substr(begin, card.find_first_of("\r\n", begin) - begin);
}

// Table rows of what layers have for FFNs, each kind once.
std::string ffn_rows(const ModelSpec& spec) {
  std::string dense;
  std::string experts;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer) {
      if (const auto* ffn = std::get_if<FfnSpec>(&cell.body))
        dense = fmt::format("| FFN width | {} |\n", ffn->width);
      else if (const auto* moe = std::get_if<MoeSpec>(&cell.body))
        experts = fmt::format("| Experts | {} of width {}, of which {} see a token |\n", moe->experts,
                              moe->width, moe->top_k);
    }
  return dense + experts;
}

std::string training_rows(const ModelDescription& description) {
  const auto& trained = description.trained_by;
  if (!trained) return "";
  return fmt::format("| Trained | to step {} of run {}, {} tokens |\n| Run's config | SHA-256 {} |\n",
                     trained->step, trained->run, trained->tokens, trained->config_sha256);
}

// The same for programs.
std::string training_json(const TrainedBy& trained) {
  Json out = Json::object();
  out["run"] = trained.run;
  out["step"] = trained.step;
  out["tokens"] = trained.tokens;
  out["config_sha256"] = trained.config_sha256;
  return json_text(out);
}

std::string card(const ModelDescription& description, DType dtype, const PublishOptions& options) {
  std::string license = options.license;
  if (const auto theirs = description.files.find("README.md");
      license.empty() && theirs != description.files.end())
    license = front_matter(theirs->second, "license");
  std::string text = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n";
  if (!license.empty()) text += "license: " + license + "\n";
  const ModelSpec& spec = description.release.spec;
  const auto& attention = std::get<AttentionSpec>(spec.layers.at(0).at(0).body);
  text += fmt::format(
      "tags:\n- {}\n---\n\n# {} language model\n\n"
      "| | |\n|---|---|\n| Architecture | {} |\n| Parameters | {} |\n| Layers | {} |\n| Hidden size | {} |\n"
      "| Attention heads | {}, of which key-value {} |\n{}| Vocabulary | {} |\n"
      "| Positions | {} |\n| Head | {} |\n| Weights | {} |\n{}\n",
      description.release.family->model_type, description.release.family->model_type,
      description.release.family->architecture, parameter_count(spec), spec.layers.size(), spec.hidden_size,
      attention.heads, attention.kv_heads, ffn_rows(spec), spec.vocab_size, spec.max_positions,
      spec.tied ? "tied to the embedding" : "its own", torch_name(dtype), training_rows(description));
  text += "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM";
  const bool tokenizer = description.files.contains("tokenizer.json");
  text += tokenizer ? ", AutoTokenizer\n\n" : "\n\n";
  text += "model = AutoModelForCausalLM.from_pretrained(\".\")\n";
  if (tokenizer)
    text +=
        "tokenizer = AutoTokenizer.from_pretrained(\".\")\n"
        "inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))\n";
  text += "```\n\n";
  if (!tokenizer) text += "This release has no tokenizer: the model was trained from token files.\n\n";
  text +=
      "`sha256sum -c SHA256SUMS` checks the files. Published by Tessera, which compared the logits of "
      "these files with the checkpoint's, bit for bit.\n";
  return text;
}

}  // namespace

std::map<std::string, std::string> release_files(const ModelDescription& description, DType dtype,
                                                 const PublishOptions& options) {
  Json config = write_release_config(*description.release.config, dtype);
  if (options.end_of_text && config.contains("eos_token_id") && config["eos_token_id"].is_null())
    config["eos_token_id"] = *options.end_of_text;
  std::map<std::string, std::string> files = description.files;
  files["config.json"] = json_text(config);
  if (!files.contains("generation_config.json")) files["generation_config.json"] = generation_config(config);
  if (files.contains("tokenizer.json") && !files.contains("tokenizer_config.json"))
    add_tokenizer_config(files, config);
  if (description.trained_by) files["training.json"] = training_json(*description.trained_by);
  files["README.md"] = card(description, dtype, options);
  return files;
}

}  // namespace tessera
