#include "core/models/moe_decoder.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/models/decoder.h"

namespace tessera {
namespace {

MoeSpec moe_of(const Json& config, const char* width_key, bool normalize) {
  const MoeSpec moe{size_of(config, "num_local_experts"), size_of(config, "num_experts_per_tok"),
                    size_of(config, width_key), normalize};
  if (moe.top_k > moe.experts)
    fail_usage("model: num_experts_per_tok {} is more than the {} experts", moe.top_k, moe.experts);
  return moe;
}

void set_window(ModelSpec& spec, std::int64_t window) {
  for (LayerSpec& layer : spec.layers) std::get<AttentionSpec>(layer[0].body).window = window;
}

// Layer i is sparse where (i + 1) is a multiple of decoder_sparse_step and i is not listed as dense.
ModelSpec build_qwen3_moe(const Json& config) {
  AttentionSpec attention;
  attention.qkv_bias = attention.output_bias = flag(config, "attention_bias");
  attention.qk_norm = NormSpec{positive(config, "rms_norm_eps", "key")};
  ModelSpec spec = build_decoder(config, attention, false);
  const MoeSpec moe = moe_of(config, "moe_intermediate_size", flag(config, "norm_topk_prob"));
  const auto step = static_cast<std::size_t>(size_of(config, "decoder_sparse_step"));
  const Json& dense = config.at("mlp_only_layers");
  if (!dense.is_null() && !dense.is_array())
    fail_usage("model: mlp_only_layers is {}; it must be a list of layers", dense.dump());
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool listed = dense.is_array() && std::find(dense.begin(), dense.end(), Json(i)) != dense.end();
    if (!listed && (i + 1) % step == 0) spec.layers[i][1].body = moe;
  }
  if (flag(config, "use_sliding_window")) set_window(spec, size_of(config, "sliding_window"));
  return spec;
}

ModelSpec build_mixtral(const Json& config) {
  ModelSpec spec = build_decoder(config, {}, false);
  const MoeSpec moe = moe_of(config, "intermediate_size", true);
  for (LayerSpec& layer : spec.layers) layer[1].body = moe;
  if (!config.at("sliding_window").is_null()) set_window(spec, size_of(config, "sliding_window"));
  if (config.at("router_jitter_noise").is_number() && config.at("router_jitter_noise").get<double>() != 0)
    fail_usage("model: router_jitter_noise must be 0");
  return spec;
}

void add_expert_keys(Family& family, const char* experts, const char* top_k) {
  family.keys.push_back({"num_local_experts", KeyKind::integer, experts, "experts of a layer"});
  family.aliases = {{"num_experts", "num_local_experts"}, {"n_routed_experts", "num_local_experts"}};
  family.keys.push_back({"num_experts_per_tok", KeyKind::integer, top_k, "experts that see a token"});
  family.keys.push_back({"output_router_logits", KeyKind::boolean, "false", "carried for transformers"});
  family.keys.push_back(
      {"router_aux_loss_coef", KeyKind::number, "0.001", "carried for transformers; see train.balance"});
}

// `parts`: names of an expert's gate, up and down.
void add_expert_names(Family& family, const std::string& block, const char* const (&parts)[3]) {
  const std::string ours = "layers.{}.ffn.";
  const std::string theirs = "model.layers.{}." + block + ".";
  family.names.push_back({ours + "router.weight", theirs + "gate.weight"});
  const char* const own[] = {"gate", "up", "down"};
  for (int i = 0; i < 3; ++i)
    family.names.push_back(
        {ours + "experts.{}." + own[i] + ".weight", theirs + "experts.{}." + parts[i] + ".weight"});
}

}  // namespace

Family qwen3_moe_family() {
  Family family{"qwen3_moe", "Qwen3MoeForCausalLM", common_keys("151936", "6144", "32768"), build_qwen3_moe,
                common_names()};
  for (ConfigKey& key : family.keys) {
    if (key.name == "hidden_size") key.default_json = "2048";
    if (key.name == "num_hidden_layers") key.default_json = "24";
  }
  family.keys.push_back({"num_key_value_heads", KeyKind::integer, "4", "KV heads"});
  family.keys.push_back(
      {"head_dim", KeyKind::integer, "null", "width of a head; hidden_size / heads if null"});
  family.keys.push_back(
      {"moe_intermediate_size", KeyKind::integer, "768", "width of an expert; dense layers have the other"});
  family.keys.push_back({"norm_topk_prob", KeyKind::boolean, "false", "gates are divided by their sum"});
  family.keys.push_back({"decoder_sparse_step", KeyKind::integer, "1", "every how many layers has experts"});
  family.keys.push_back({"mlp_only_layers", KeyKind::any, "[]", "layers without experts"});
  family.keys.push_back({"use_sliding_window", KeyKind::boolean, "false", "sliding windows in all layers"});
  family.keys.push_back({"sliding_window", KeyKind::any, "4096", "tokens of a window, self included"});
  family.keys.push_back({"max_window_layers", KeyKind::integer, "28", "carried for transformers"});
  add_expert_keys(family, "128", "8");
  for (const char* part : {"q", "k"})
    family.names.push_back({std::string("layers.{}.attention.") + part + "_norm.weight",
                            std::string("model.layers.{}.self_attn.") + part + "_norm.weight"});
  add_expert_names(family, "mlp", {"gate_proj", "up_proj", "down_proj"});
  return family;
}

Family mixtral_family() {
  Family family{"mixtral", "MixtralForCausalLM", common_keys("32000", "14336", "131072"), build_mixtral,
                common_names(false)};
  for (ConfigKey& key : family.keys) {
    if (key.name == "rms_norm_eps") key.default_json = "1e-05";
    if (key.name == "rope_parameters") key.default_json = R"({"rope_type":"default","rope_theta":1000000.0})";
  }
  std::erase_if(family.keys, [](const ConfigKey& key) { return key.name == "attention_bias"; });
  family.keys.push_back({"num_key_value_heads", KeyKind::integer, "8", "KV heads"});
  family.keys.push_back({"head_dim", KeyKind::integer, "null", "hidden_size / num_attention_heads if null"});
  family.keys.push_back({"sliding_window", KeyKind::any, "null", "tokens of a window, self included"});
  family.keys.push_back({"router_jitter_noise", KeyKind::number, "0.0", "must be 0"});
  add_expert_keys(family, "8", "2");
  add_expert_names(family, "block_sparse_moe", {"w1", "w3", "w2"});
  return family;
}

}  // namespace tessera
