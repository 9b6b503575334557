// Model families as data: config keys with their defaults, the spec they build, and the names of their
// tensors.
//
// A family's keys are those of Hugging Face's config.json, in its newer dialect (rope_parameters). A table,
// constant after start-up; any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/json.h"
#include "core/nn/spec.h"

namespace tessera {

enum class KeyKind { integer, number, boolean, text, object, any };

struct ConfigKey {
  std::string name;
  KeyKind kind;
  std::string default_json;  // JSON text of the class default; "null" where it is derived from other keys
  std::string help;
};

// A tensor's two names; "{}" stands for the number of a layer, and of an expert.
struct TensorName {
  std::string logical;  // "layers.{}.attention.q.weight"
  std::string release;  // "model.layers.{}.self_attn.q_proj.weight"
};

struct Family {
  std::string model_type;    // "llama"
  std::string architecture;  // "LlamaForCausalLM"
  std::vector<ConfigKey> keys;
  // From a config with every key present (see complete_config). Throws Error naming the key at fault.
  ModelSpec (*build)(const Json& config) = nullptr;
  std::vector<TensorName> names;
  std::vector<std::pair<std::string, std::string>> aliases = {};  // another name of a key, and the key
};

std::span<const Family> families();
// Throws Error naming the families there are.
const Family& find_family(std::string_view model_type);

// `given` with absent keys filled from the defaults; their names are appended to `defaulted` if not null. A
// key of the wrong type, or (when `strict`) unknown to the family, throws Error beginning with `origin`.
Json complete_config(const Family& family, const Json& given, std::string_view origin, bool strict,
                     std::vector<std::string>* defaulted = nullptr);

// Rotary settings in the newer dialect, from either: what rope_parameters says wins over rope_scaling, and
// both over the older dialect's keys beside them. Throws Error beginning with `origin` where one of the two
// is no object.
Json rope_parameters(const Json& keys, std::string_view origin);

}  // namespace tessera
