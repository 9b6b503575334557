#include "core/models/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/models/dense_decoder.h"

namespace tessera {
namespace {

// Fills `text`'s layer number into `to` if `text` matches `from`, where "{}" stands for decimal digits.
std::optional<std::string> translate(std::string_view text, std::string_view from, std::string_view to) {
  const std::size_t hole = from.find("{}");
  if (hole == std::string_view::npos) return text == from ? std::optional<std::string>(to) : std::nullopt;
  const std::string_view tail = from.substr(hole + 2);
  if (text.size() <= hole + tail.size() || !text.starts_with(from.substr(0, hole)) || !text.ends_with(tail))
    return std::nullopt;
  const std::string_view number = text.substr(hole, text.size() - hole - tail.size());
  const bool digits = std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || (number.size() > 1 && number[0] == '0')) return std::nullopt;
  std::string result(to);
  return result.replace(result.find("{}"), 2, number);
}

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
  static const std::vector<Family> table{llama_family(), qwen3_family()};
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
  if (strict)
    for (const auto& [name, value] : given.items())
      if (std::find(names.begin(), names.end(), name) == names.end())
        fail_usage("{}: unknown key '{}' of family {}{}", origin, name, family.model_type,
                   did_you_mean(name, names));
  Json full = Json::object();
  for (const ConfigKey& key : family.keys) {
    const auto found = given.find(key.name);
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

std::optional<std::string> hugging_face_name(const Family& family, std::string_view logical) {
  for (const TensorName& name : family.names)
    if (auto found = translate(logical, name.logical, name.hugging_face)) return found;
  return std::nullopt;
}

std::optional<std::string> logical_name(const Family& family, std::string_view hugging_face) {
  for (const TensorName& name : family.names)
    if (auto found = translate(hugging_face, name.hugging_face, name.logical)) return found;
  return std::nullopt;
}

}  // namespace tessera
