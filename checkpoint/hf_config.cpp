#include "checkpoint/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/log.h"

namespace tessera {
namespace {

constexpr const char* written_for = "5.23.0";  // the transformers version whose dialect is written

// Not kept: what write_release_config sets itself, what both dialects spell differently, and pointers to
// code, which is never run.
const std::set<std::string> dropped{"architectures", "model_type",   "dtype",    "torch_dtype",
                                    "rope_theta",    "rope_scaling", "auto_map", "transformers_version"};

// Sizes above these belong to no model; far below them products of sizes would overflow.
struct Limit {
  const char* key;
  std::int64_t most;
  std::int64_t least = 1;
};
constexpr std::array<Limit, 13> limits{{{"vocab_size", std::int64_t{1} << 28},
                                        {"hidden_size", std::int64_t{1} << 22},
                                        {"intermediate_size", std::int64_t{1} << 24},
                                        {"num_hidden_layers", 16384},
                                        {"num_attention_heads", 65536},
                                        {"num_key_value_heads", 65536},
                                        {"head_dim", 65536},
                                        {"max_position_embeddings", std::int64_t{1} << 31},
                                        {"num_local_experts", 65536},
                                        {"num_experts_per_tok", 65536},
                                        {"moe_intermediate_size", std::int64_t{1} << 24},
                                        {"decoder_sparse_step", 16384},
                                        {"max_window_layers", 16384, 0}}};
constexpr std::int64_t most_parameters = std::int64_t{1} << 50;
constexpr std::int64_t most_experts = std::int64_t{1} << 18;  // of all layers

bool is_number(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

// rope_parameters from either dialect, checked, with the family's theta where none is given.
Json rope_of(const Json& raw, const Family& family, const std::string& origin) {
  Json rope = rope_parameters(raw, origin);
  if (!rope["rope_type"].is_string())
    fail("{}: rope_type is {}; it must be text", origin, rope["rope_type"].dump());
  if (!rope.contains("rope_theta"))
    for (const ConfigKey& key : family.keys)
      if (key.name == "rope_parameters")
        rope["rope_theta"] = Json::parse(key.default_json).value("rope_theta", 10000.0);
  Json ordered = Json::object();
  ordered["rope_type"] = rope["rope_type"];
  for (const auto& [name, value] : rope.items()) {
    if (name == "rope_type") continue;
    const bool known = name == "rope_theta" || name == "factor" || name == "low_freq_factor" ||
                       name == "high_freq_factor" || name == "original_max_position_embeddings" ||
                       name == "partial_rotary_factor";
    if (!known)
      fail("{}: rope_parameters '{}' is not known here; publishing would change the model", origin, name);
    if (!is_number(value))
      fail("{}: rope_parameters '{}' is {}; it must be a number", origin, name, value.dump());
    if (name == "partial_rotary_factor") {
      if (value.get<double>() != 1)
        fail("{}: partial_rotary_factor {} is not supported in family {}", origin, value.dump(),
             family.model_type);
    } else if (name == "original_max_position_embeddings") {
      ordered[name] = value;
    } else {
      ordered[name] = value.get<double>();
    }
  }
  return ordered;
}

void check_token_id(const Json& config, const char* key, const std::string& origin) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    const bool none = std::string_view(key) == "pad_token_id" && id == -1;  // some old releases say so
    if (none) continue;
    if (!id.is_number_integer() || id.get<double>() < 0 ||
        id.get<double>() >= config.at("vocab_size").get<double>())
      fail("{}: '{}' {} is outside the vocabulary of {}", origin, key, id.dump(),
           config.at("vocab_size").dump());
  }
}

void check_layer_types(const Json& config, const std::string& origin) {
  const auto types = config.find("layer_types");
  if (types == config.end() || types->is_null()) return;
  if (!types->is_array() || types->size() != config.at("num_hidden_layers").get<std::size_t>())
    fail("{}: 'layer_types' must be a list with one entry for each of {} layers", origin,
         config.at("num_hidden_layers").dump());
  for (const Json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention")
      fail("{}: layer type {} is unknown; there are: full_attention, sliding_attention", origin, type.dump());
    if (type == "sliding_attention" && !config.value("use_sliding_window", false))
      fail("{}: a layer slides, but 'use_sliding_window' is false", origin);
  }
}

// Types and bounds of the family's keys, before the family's own checks; floats become floats.
void check_keys(const Family& family, Json& config, const std::string& origin) {
  for (const ConfigKey& key : family.keys) {
    Json& value = config[key.name];
    if (value.is_null() && key.default_json != "null" && key.kind != KeyKind::any)
      fail("{}: '{}' is null", origin, key.name);
    if (key.kind != KeyKind::number || value.is_null()) continue;
    if (!is_number(value)) fail("{}: '{}' is {}; it must be a finite number", origin, key.name, value.dump());
    value = value.get<double>();
  }
  for (const Limit& limit : limits) {
    const auto found = config.find(limit.key);
    if (found == config.end() || found->is_null()) continue;
    const double value = found->is_number_integer() ? found->get<double>() : -1;
    if (value < static_cast<double>(limit.least) || value > static_cast<double>(limit.most))
      fail("{}: '{}' is {}; it must be an integer from {} to {}", origin, limit.key, found->dump(),
           limit.least, limit.most);
  }
}

// What no size alone says: the model as a whole.
void check_whole(const ModelSpec& spec, const std::string& origin) {
  std::int64_t experts = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* moe = std::get_if<MoeSpec>(&cell.body)) experts += moe->experts;
  if (experts > most_experts)
    fail("{}: 'num_local_experts' makes {} experts in {} layers; no more than {} are known to any model",
         origin, experts, spec.layers.size(), most_experts);
  if (parameter_count(spec) > most_parameters)
    fail("{}: the sizes make a model of {:.1e} parameters; no more than {:.1e} are known to any", origin,
         static_cast<double>(parameter_count(spec)), static_cast<double>(most_parameters));
}

// Fills in what the family derives from other keys, so that no reader has to know the rule.
void resolve(Json& config, const ModelSpec& spec) {
  const auto& attention = std::get<AttentionSpec>(spec.layers.at(0).at(0).body);
  if (config.contains("num_key_value_heads")) config["num_key_value_heads"] = attention.kv_heads;
  if (config.contains("head_dim")) config["head_dim"] = attention.head_dim;
}

ReleaseConfig finish(const Family& family, Json given, const std::string& origin) {
  try {
    ReleaseConfig result;
    result.family = &family;
    given["rope_parameters"] = rope_of(given, family, origin);
    Json config = complete_config(family, given, origin, false);
    check_keys(family, config, origin);
    check_layer_types(config, origin);
    try {
      result.spec = family.build(config);
    } catch (const Error& e) {
      fail("{}: {}", origin, e.what());
    }
    check_whole(result.spec, origin);
    const auto hidden = config.at("hidden_size").get<std::int64_t>();
    const auto heads = config.at("num_attention_heads").get<std::int64_t>();
    if (family.model_type == "llama" && hidden % heads != 0)
      fail("{}: hidden_size {} is not a multiple of num_attention_heads {}", origin, hidden, heads);
    resolve(config, result.spec);
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
      check_token_id(config, key, origin);
    Json full = Json::object();
    full["model_type"] = family.model_type;
    for (const auto& [name, value] : config.items()) full[name] = value;
    const auto is_alias = [&](const std::string& name) {
      return std::any_of(family.aliases.begin(), family.aliases.end(),
                         [&](const auto& alias) { return alias.first == name; });
    };
    for (const auto& [name, value] : given.items())
      if (!dropped.contains(name) && !full.contains(name) && !is_alias(name)) full[name] = value;
    result.config = std::make_shared<const Json>(std::move(full));
    return result;
  } catch (const nlohmann::json::exception& e) {
    fail("{}: {}", origin, e.what());
  }
}

}  // namespace

ReleaseConfig read_release_config(const Json& raw, const std::string& origin) {
  if (!raw.is_object()) fail("{}: not a JSON object", origin);
  const auto type = raw.find("model_type");
  if (type == raw.end() || !type->is_string()) fail("{}: 'model_type' is missing or not text", origin);
  const Family* family = nullptr;
  try {
    family = &find_family(type->get<std::string>());
  } catch (const Error& e) {
    fail("{}: {}", origin, e.what());
  }
  if (const auto names = raw.find("architectures"); names != raw.end() && !names->is_null()) {
    if (!names->is_array() || names->size() != 1 || names->at(0) != family->architecture)
      fail("{}: architectures {} is not known; for {} there is: [\"{}\"]", origin, names->dump(),
           family->model_type, family->architecture);
  }
  if (const auto found = raw.find("quantization_config"); found != raw.end() && !found->is_null())
    fail("{}: the weights are quantised ('quantization_config'); import the release's F32, BF16 or F16 form",
         origin);
  ReleaseConfig result = finish(*family, raw, origin);
  for (const char* key : {"torch_dtype", "dtype"}) {
    const auto found = raw.find(key);
    if (found == raw.end() || found->is_null()) continue;
    if (!found->is_string()) fail("{}: '{}' is {}; it must be text", origin, key, found->dump());
    if (found->get<std::string>() == "auto") continue;
    result.dtype = dtype_from_torch_name(found->get<std::string>());
    if (!result.dtype)
      fail("{}: '{}' {} is not one of float32, bfloat16, float16", origin, key, found->dump());
  }
  return result;
}

ReleaseConfig make_release_config(const Family& family, const Json& keys, const std::string& origin) {
  return finish(family, keys, origin);
}

Json write_release_config(const Json& config, DType dtype) {
  const Family& family = find_family(config.at("model_type").get<std::string>());
  Json out = Json::object();
  out["architectures"] = Json::array({family.architecture});
  out["model_type"] = family.model_type;
  out["dtype"] = torch_name(dtype);
  for (const auto& [name, value] : config.items())
    if (!dropped.contains(name)) out[name] = value;
  out["transformers_version"] = written_for;
  return out;
}

namespace {

std::string text_of(const AttentionSpec& a) {
  std::string text = fmt::format("attention {} {} {} {} {} {} rope {} {}", a.heads, a.kv_heads, a.head_dim,
                                 a.qkv_bias, a.output_bias, a.window, a.rope.width, a.rope.theta);
  if (a.qk_norm) text += fmt::format(" norm {}", a.qk_norm->eps);
  if (const auto& s = a.rope.scaling)
    text += fmt::format(" llama3 {} {} {} {}", s->factor, s->low_freq_factor, s->high_freq_factor,
                        s->original_max_position_embeddings);
  return text;
}
std::string text_of(const FfnSpec& ffn) {
  return fmt::format("ffn {} {}", ffn.width, ffn.bias);
}
std::string text_of(const MoeSpec& moe) {
  return fmt::format("moe {} {} {} {}", moe.experts, moe.top_k, moe.width, moe.normalize);
}

// All of a spec that decides what is computed, and from which tensors.
std::string text_of(const ModelSpec& spec) {
  std::string text =
      fmt::format("{} {} {} {}\n", spec.vocab_size, spec.hidden_size, spec.final_norm.eps, spec.tied);
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      text += fmt::format("{} {}\n", cell.norm.eps,
                          std::visit([](const auto& body) { return text_of(body); }, cell.body));
  return text;
}

}  // namespace

std::vector<std::string> model_differences(const ReleaseConfig& a, const ReleaseConfig& b) {
  if (a.family != b.family) return {"model_type"};
  if (text_of(a.spec) == text_of(b.spec)) return {};
  std::vector<std::string> names;
  for (const ConfigKey& key : a.family->keys) {
    if (key.name.ends_with("_token_id") || key.name == "use_cache" || key.name == "pretraining_tp" ||
        key.name == "initializer_range" || key.name == "max_position_embeddings" ||
        key.name == "output_router_logits" || key.name == "router_aux_loss_coef")
      continue;
    // Unordered: the order of keys in a map says nothing.
    if (nlohmann::json(a.config->at(key.name)) != nlohmann::json(b.config->at(key.name)))
      names.push_back(key.name);
  }
  return names;
}

const char* torch_name(DType dtype) {
  return dtype == DType::bf16 ? "bfloat16" : dtype == DType::f16 ? "float16" : "float32";
}

std::optional<DType> dtype_from_torch_name(const std::string& name) {
  const std::string plain = name.starts_with("torch.") ? name.substr(6) : name;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    if (plain == torch_name(dtype)) return dtype;
  return std::nullopt;
}

}  // namespace tessera
