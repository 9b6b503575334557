#include "core/models/decoder.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr std::int64_t largest_size = std::int64_t{1} << 31;
constexpr std::int64_t largest_width = std::int64_t{1} << 24;  // of all heads

RopeSpec rope_of(const Json& config, std::int64_t head_dim) {
  const Json& rope = config.at("rope_parameters");
  if (!rope.is_object()) fail_usage("model: 'rope_parameters' is {}; it must be a mapping", rope.dump());
  RopeSpec spec{head_dim, positive(rope, "rope_theta", "rope_parameters"), std::nullopt};
  const std::string type = rope.value("rope_type", "default");
  if (type == "llama3") {
    constexpr const char* where = "rope_parameters of type llama3:";
    spec.scaling = {positive(rope, "factor", where), positive(rope, "low_freq_factor", where),
                    positive(rope, "high_freq_factor", where),
                    positive(rope, "original_max_position_embeddings", where)};
    if (spec.scaling->high_freq_factor < spec.scaling->low_freq_factor)
      fail_usage("model: rope_parameters: high_freq_factor is below low_freq_factor");
  } else if (type != "default") {
    fail_usage("model: rope_type '{}' is unknown; there are: default, llama3", type);
  }
  return spec;
}

}  // namespace

std::int64_t size_of(const Json& config, const char* key) {
  const Json& value = config.at(key);
  if (!value.is_number_integer() || value.get<double>() < 1 ||
      value.get<double>() > static_cast<double>(largest_size))
    fail_usage("model: '{}' is {}; it must be an integer of at least 1", key, value.dump());
  return value.get<std::int64_t>();
}

double positive(const Json& object, const char* key, const char* where) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number() || !(found->get<double>() > 0) ||
      !std::isfinite(found->get<double>()))
    fail_usage("model: {} '{}' is {}; it must be a positive number", where, key,
               found == object.end() ? "absent" : found->dump());
  return found->get<double>();
}

bool flag(const Json& config, const char* key) {
  return config.at(key).is_boolean() && config.at(key).get<bool>();
}

ModelSpec build_decoder(const Json& config, AttentionSpec attention, bool ffn_bias) {
  ModelSpec spec;
  spec.vocab_size = size_of(config, "vocab_size");
  spec.hidden_size = size_of(config, "hidden_size");
  spec.max_positions = size_of(config, "max_position_embeddings");
  spec.tied = flag(config, "tie_word_embeddings");
  spec.init_std = positive(config, "initializer_range", "key");
  spec.final_norm.eps = positive(config, "rms_norm_eps", "key");
  attention.heads = size_of(config, "num_attention_heads");
  attention.kv_heads =
      config.at("num_key_value_heads").is_null() ? attention.heads : size_of(config, "num_key_value_heads");
  if (attention.heads % attention.kv_heads != 0)
    fail_usage("model: num_attention_heads {} is not a multiple of num_key_value_heads {}", attention.heads,
               attention.kv_heads);
  if (config.at("head_dim").is_null()) {
    if (spec.hidden_size % attention.heads != 0)
      fail_usage("model: hidden_size {} is not a multiple of num_attention_heads {}; set head_dim",
                 spec.hidden_size, attention.heads);
    attention.head_dim = spec.hidden_size / attention.heads;
  } else {
    attention.head_dim = size_of(config, "head_dim");
  }
  if (attention.heads > largest_width / attention.head_dim)
    fail_usage("model: num_attention_heads {} times head_dim {} is more than {}", attention.heads,
               attention.head_dim, largest_width);
  if (attention.head_dim % 2 != 0)
    fail_usage("model: head_dim {} is odd; rope needs pairs", attention.head_dim);
  attention.rope = rope_of(config, attention.head_dim);
  if (config.at("hidden_act") != "silu")
    fail_usage("model: hidden_act {} is not known here; there is: silu", config.at("hidden_act").dump());
  if (config.at("attention_dropout").is_number() && config.at("attention_dropout").get<double>() != 0)
    fail_usage("model: attention_dropout must be 0: pretraining uses none");
  const FfnSpec ffn{size_of(config, "intermediate_size"), ffn_bias};
  const LayerSpec layer{{spec.final_norm, attention}, {spec.final_norm, ffn}};
  spec.layers.assign(static_cast<std::size_t>(size_of(config, "num_hidden_layers")), layer);
  return spec;
}

std::vector<ConfigKey> common_keys(const char* vocab, const char* intermediate, const char* positions) {
  using K = KeyKind;
  return {
      {"vocab_size", K::integer, vocab, "tokens of the vocabulary"},
      {"hidden_size", K::integer, "4096", "width of the residual stream"},
      {"intermediate_size", K::integer, intermediate, "width of the FFN"},
      {"num_hidden_layers", K::integer, "32", "layers"},
      {"num_attention_heads", K::integer, "32", "query heads"},
      {"hidden_act", K::text, "\"silu\"", "activation of the FFN's gate"},
      {"max_position_embeddings", K::integer, positions, "longest sequence the model is meant for"},
      {"initializer_range", K::number, "0.02", "standard deviation of initial weights"},
      {"rms_norm_eps", K::number, "1e-06", "epsilon of RMS norms"},
      {"use_cache", K::boolean, "true", "carried for transformers"},
      {"tie_word_embeddings", K::boolean, "false", "the head is the embedding"},
      {"rope_parameters", K::object, R"({"rope_type":"default","rope_theta":10000.0})", "rotary embedding"},
      {"attention_bias", K::boolean, "false", "biases on q, k, v and o"},
      {"attention_dropout", K::number, "0.0", "must be 0"},
      {"bos_token_id", K::any, "null", "carried for transformers"},
      {"eos_token_id", K::any, "null", "carried for transformers"},
      {"pad_token_id", K::any, "null", "carried for transformers"},
  };
}

std::vector<TensorName> common_names(bool ffn) {
  const std::string theirs = "model.layers.{}.";
  const std::string ours = "layers.{}.";
  std::vector<TensorName> names{{"embedding.weight", "model.embed_tokens.weight"},
                                {"final_norm.weight", "model.norm.weight"},
                                {"head.weight", "lm_head.weight"},
                                {ours + "attention_norm.weight", theirs + "input_layernorm.weight"},
                                {ours + "ffn_norm.weight", theirs + "post_attention_layernorm.weight"}};
  for (const char* part : {"q", "k", "v", "o"})
    for (const char* what : {".weight", ".bias"})
      names.push_back({ours + "attention." + part + what, theirs + "self_attn." + part + "_proj" + what});
  if (!ffn) return names;
  for (const char* part : {"gate", "up", "down"})
    for (const char* what : {".weight", ".bias"})
      names.push_back({ours + "ffn." + part + what, theirs + "mlp." + part + "_proj" + what});
  return names;
}

}  // namespace tessera
