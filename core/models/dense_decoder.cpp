#include "core/models/dense_decoder.h"

#include <nlohmann/json.hpp>

#include "core/models/decoder.h"

namespace tessera {
namespace {

ModelSpec build_llama(const Json& config) {
  AttentionSpec attention;
  attention.qkv_bias = attention.output_bias = flag(config, "attention_bias");
  return build_decoder(config, attention, flag(config, "mlp_bias"));
}

ModelSpec build_qwen3(const Json& config) {
  AttentionSpec attention;
  attention.qkv_bias = attention.output_bias = flag(config, "attention_bias");
  attention.qk_norm = NormSpec{positive(config, "rms_norm_eps", "key")};
  ModelSpec spec = build_decoder(config, attention, false);
  if (!flag(config, "use_sliding_window")) return spec;
  const std::int64_t window = size_of(config, "sliding_window");
  const Json& types = config.at("layer_types");
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool slides =
        types.is_array() ? i < types.size() && types[i] == "sliding_attention"
                         : i >= static_cast<std::size_t>(config.at("max_window_layers").get<std::int64_t>());
    if (slides) std::get<AttentionSpec>(spec.layers[i][0].body).window = window;
  }
  return spec;
}

}  // namespace

Family llama_family() {
  Family family{"llama", "LlamaForCausalLM", common_keys("32000", "11008", "2048"), build_llama,
                common_names()};
  family.keys.push_back(
      {"num_key_value_heads", KeyKind::integer, "null", "KV heads; as many as query heads if null"});
  family.keys.push_back({"head_dim", KeyKind::integer, "null", "hidden_size / num_attention_heads if null"});
  family.keys.push_back({"mlp_bias", KeyKind::boolean, "false", "biases in the FFN"});
  family.keys.push_back({"pretraining_tp", KeyKind::integer, "1", "carried for transformers"});
  return family;
}

Family qwen3_family() {
  Family family{"qwen3", "Qwen3ForCausalLM", common_keys("151936", "22016", "32768"), build_qwen3,
                common_names()};
  family.keys.push_back({"num_key_value_heads", KeyKind::integer, "32", "KV heads"});
  family.keys.push_back({"head_dim", KeyKind::integer, "128", "width of a head"});
  family.keys.push_back(
      {"use_sliding_window", KeyKind::boolean, "false", "sliding windows in the upper layers"});
  family.keys.push_back({"sliding_window", KeyKind::any, "4096", "tokens of a window, self included"});
  family.keys.push_back({"max_window_layers", KeyKind::integer, "28", "layers from this one on slide"});
  family.keys.push_back(
      {"layer_types", KeyKind::any, "null", "full_attention or sliding_attention per layer"});
  for (const char* part : {"q", "k"})
    family.names.push_back({std::string("layers.{}.attention.") + part + "_norm.weight",
                            std::string("model.layers.{}.self_attn.") + part + "_norm.weight"});
  return family;
}

}  // namespace tessera
