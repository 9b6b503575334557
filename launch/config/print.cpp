// A config written out: YAML, JSON, the schema, and what differs between two.
#include "core/base/error.h"
#include "core/models/family.h"
#include "launch/config/fields.h"
#include "launch/config/yaml.h"

namespace tessera {

using fields::Field;
using fields::Section;

namespace {

Json section_json(const Section& section, const Config& config) {
  Json out = Json::object();
  for (const Field& field : section.fields) out[field.name] = field.write(config);
  if (section.write_others) {
    const Json others = section.write_others(config);
    for (const auto& [key, value] : others.items()) out[key] = value;
  }
  return out;
}

Json whole_json(const Config& config) {
  Json out = Json::object();
  for (const Section& section : fields::sections()) out[section.name] = section_json(section, config);
  if (config.model.family.empty()) out["model"].erase("family");
  return out;
}

// Flow style: what fits on the rest of a line.
std::string flow(const Json& value) {
  if (value.is_string()) return yaml::quote_if_needed(value.get<std::string>());
  if (!value.is_structured()) return value.dump();
  std::string out;
  for (const auto& [key, item] : value.items()) {
    if (!out.empty()) out += ", ";
    if (value.is_object()) out += yaml::quote_if_needed(key) + ": ";
    out += flow(item);
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

template <class Enum>
const char* pick(Enum value, std::initializer_list<const char*> names) {
  return names.begin()[static_cast<std::size_t>(value)];
}

}  // namespace

std::string config_yaml(const Config& config) {
  std::string out;
  const Json whole = whole_json(config);
  for (const auto& [section, keys] : whole.items()) {
    if (keys.empty()) continue;
    out += section + ":\n";
    for (const auto& [key, value] : keys.items()) {
      out += "  " + yaml::quote_if_needed(key) + ": " + flow(value) + "\n";
    }
  }
  return out;
}

std::string config_json(const Config& config) {
  return whole_json(config).dump();
}

std::string config_schema() {
  const Config defaults;
  Json properties = Json::object();
  Json required_sections = Json::array();
  for (const Section& section : fields::sections()) {
    Json keys = Json::object();
    Json required_keys = Json::array();
    for (const Field& field : section.fields) {
      Json schema = {{"description", field.help}};
      schema.update(field.schema);
      if (field.required) {
        required_keys.push_back(field.name);
      } else {
        schema["default"] = field.write(defaults);
      }
      keys[field.name] = schema;
    }
    Json schema = {{"description", section.help}, {"type", "object"}, {"properties", keys}};
    if (!required_keys.empty()) schema["required"] = required_keys;
    schema["additionalProperties"] = section.read_others ? section.others_schema : Json(false);
    if (section.required) required_sections.push_back(section.name);
    properties[section.name] = schema;
  }
  const Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                       {"title", "Tessera config"},
                       {"type", "object"},
                       {"properties", properties},
                       {"required", required_sections},
                       {"anyOf", Json::parse(R"([{"required": ["model"]},
                          {"required": ["init"], "properties": {"init": {"required": ["from"]}}}])")},
                       {"additionalProperties", false}};
  return schema.dump(2) + "\n";
}

std::vector<std::string> identity_differences(const Config& saved, const Config& now) {
  std::vector<std::string> differences;
  const auto compare = [&](const std::string& key, const Json& before, const Json& after) {
    // Unordered: the order of keys in a map says nothing.
    if (nlohmann::json(before) != nlohmann::json(after)) {
      differences.push_back(fmt::format("{} (checkpoint {}, config {})", key, flow(before), flow(after)));
    }
  };
  for (const Section& section : fields::sections()) {
    for (const Field& field : section.fields) {
      if (!field.identity) continue;
      const Json before = field.write(saved), after = field.write(now);
      compare(section.name + "." + field.name, before, after);
    }
  }
  if (saved.model.family != now.model.family) return differences;
  // A key left out means its default. Without vocab_size the tokenizer decides, and the token file is checked
  // against the model when it is opened.
  const Family& family = find_family(now.model.family);
  const Json before = complete_config(family, *saved.model.keys, "the checkpoint's config", false);
  const Json after = complete_config(family, *now.model.keys, "the config", false);
  for (const ConfigKey& key : family.keys) {
    const bool given = saved.model.keys->contains(key.name) && now.model.keys->contains(key.name);
    if (key.name == "vocab_size" && !given) continue;
    compare("model." + key.name, before[key.name], after[key.name]);
  }
  return differences;
}

const char* name_of(Precision value) {
  return pick(value, {"fp32", "bf16"});
}
const char* name_of(Recompute value) {
  return pick(value, {"none", "selective", "full"});
}
const char* name_of(OnNonfinite value) {
  return pick(value, {"stop", "skip"});
}
const char* name_of(ScheduleName value) {
  return pick(value, {"cosine", "wsd", "constant"});
}
const char* name_of(Balance value) {
  return pick(value, {"none", "sequence", "global", "bias"});
}

}  // namespace tessera
