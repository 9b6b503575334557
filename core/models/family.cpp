#include "core/models/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/models/dense_decoder.h"
#include "core/models/moe_decoder.h"

namespace tessera {
namespace {

bool has_kind(const Json& value, KeyKind kind) {
  switch (kind) {
    case KeyKind::integer:
      return value.is_number_integer();
    case KeyKind::number:
      return value.is_number();
    case KeyKind::boolean:
      return value.is_boolean();
    case KeyKind::text:
      return value.is_string();
    case KeyKind::object:
      return value.is_object();
    case KeyKind::any:
      return true;
  }
  return false;
}

const char* kind_text(KeyKind kind) {
  constexpr const char* texts[] = {"an integer", "a number",  "true or false",
                                   "text",       "a mapping", "anything"};
  return texts[static_cast<int>(kind)];
}

}  // namespace

std::span<const Family> families() {
  static const std::vector<Family> table{llama_family(), qwen3_family(), qwen3_moe_family(),
                                         mixtral_family()};
  return table;
}

const Family& find_family(std::string_view model_type) {
  std::string known;
  std::vector<std::string> names;
  for (const Family& family : families()) {
    if (family.model_type == model_type) return family;
    known += (known.empty() ? "" : ", ") + family.model_type;
    names.push_back(family.model_type);
  }
  fail_usage("unknown model family '{}'{}; there are: {}", model_type,
             did_you_mean(std::string(model_type), names), known);
}

Json complete_config(const Family& family, const Json& given, std::string_view origin, bool strict,
                     std::vector<std::string>* defaulted) {
  std::vector<std::string> names;
  for (const ConfigKey& key : family.keys) names.push_back(key.name);
  for (const auto& [alias, key] : family.aliases) names.push_back(alias);
  const auto find = [&](const std::string& name) {
    auto found = given.find(name);
    for (const auto& [alias, key] : family.aliases)
      if (key == name && found == given.end()) found = given.find(alias);
    return found;
  };
  if (strict)
    for (const auto& [name, value] : given.items())
      if (std::find(names.begin(), names.end(), name) == names.end())
        fail_usage("{}: unknown key '{}' of family {}{}", origin, name, family.model_type,
                   did_you_mean(name, names));
  Json full = Json::object();
  for (const ConfigKey& key : family.keys) {
    const auto found = find(key.name);
    if (found == given.end()) {
      full[key.name] = Json::parse(key.default_json);
      if (defaulted != nullptr) defaulted->push_back(key.name);
    } else {
      if (!found->is_null() && !has_kind(*found, key.kind))
        fail_usage("{}: '{}' is {}; it must be {}", origin, key.name, found->dump(), kind_text(key.kind));
      full[key.name] = *found;
    }
  }
  return full;
}

Json rope_parameters(const Json& keys, std::string_view origin) {
  Json rope = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto found = keys.find(key);
    if (found == keys.end() || found->is_null()) continue;
    if (!found->is_object()) fail("{}: '{}' is {}; it must be an object", origin, key, found->dump());
    for (const auto& [name, value] : found->items()) rope[name == "type" ? "rope_type" : name] = value;
  }
  for (const char* key : {"rope_theta", "partial_rotary_factor"})
    if (const auto found = keys.find(key); found != keys.end() && !found->is_null() && !rope.contains(key))
      rope[key] = *found;
  if (!rope.contains("rope_type")) rope["rope_type"] = "default";
  return rope;
}

}  // namespace tessera
