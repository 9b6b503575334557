#include "launch/config/config.h"

#include <algorithm>
#include <limits>

#include "checkpoint/hf_config.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/models/family.h"
#include "launch/config/fields.h"
#include "launch/config/yaml.h"

namespace tessera {

using fields::Field;
using fields::Section;
using yaml::Kind;
using yaml::Node;

namespace {

std::vector<std::string> names_of(const std::vector<Field>& list) {
  std::vector<std::string> names;
  for (const Field& field : list) names.push_back(field.name);
  return names;
}

void note_places(const Node& node, const std::string& key, Config& config) {
  if (!key.empty()) config.places[key] = node.place.text();
  const std::string prefix = key.empty() ? "" : key + ".";
  for (std::size_t i = 0; i < node.items.size(); ++i)
    note_places(node.items[i], prefix + std::to_string(i), config);
  for (const yaml::Entry& entry : node.entries) note_places(entry.value, prefix + entry.key, config);
}

void read_section(const Section& section, const Node& node, Config& config) {
  if (node.kind != Kind::map) {
    yaml::fail_at(node.place, fmt::format("{} must be a map of keys, found {}", section.name,
                                          yaml::kind_name(node.kind)));
  }
  std::vector<const yaml::Entry*> others;
  for (const yaml::Entry& entry : node.entries) {
    const auto field = std::find_if(section.fields.begin(), section.fields.end(),
                                    [&](const Field& f) { return f.name == entry.key; });
    if (field != section.fields.end()) {
      field->read(entry.value, config);
    } else if (section.read_others) {
      others.push_back(&entry);
    } else {
      yaml::fail_at(entry.key_place, fmt::format("unknown key '{}' in {}{}", entry.key, section.name,
                                                 did_you_mean(entry.key, names_of(section.fields))));
    }
  }
  for (const Field& field : section.fields) {
    if (field.required && node.find(field.name) == nullptr) {
      yaml::fail_at(node.place, fmt::format("{} lacks the key {}", section.name, field.name));
    }
  }
  if (section.read_others) section.read_others(others, config);
}

// What must fit together, and what the model's family says of its keys.
void check(const Config& config) {
  const TrainConfig& train = config.train;
  constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();
  if (train.micro_batch > most_tokens / config.data.seq_len) {
    config.fail_at("train.micro_batch", fmt::format("({}) times data.seq_len ({}) must not exceed {} tokens",
                                                    train.micro_batch, config.data.seq_len, most_tokens));
  }
  if (train.global_batch % train.micro_batch != 0) {
    config.fail_at("train.global_batch", fmt::format("({}) must be a multiple of train.micro_batch ({})",
                                                     train.global_batch, train.micro_batch));
  }
  const std::optional<int> dp = config.parallel.layout.mesh.dp;
  if (dp && train.global_batch / train.micro_batch % *dp != 0) {
    config.fail_at("parallel.dp", fmt::format("({}) must divide the {} microbatches of a step", *dp,
                                              train.global_batch / train.micro_batch));
  }
  if (config.schedule.min_lr > config.optimizer.lr) {
    config.fail_at("schedule.min_lr", fmt::format("({}) must not exceed optimizer.lr ({})",
                                                  config.schedule.min_lr, config.optimizer.lr));
  }
  if (config.schedule.decay_steps && config.schedule.name != ScheduleName::wsd) {
    config.fail_at("schedule.decay_steps", "is used by the schedule wsd only; remove it");
  }
  const ScheduleConfig& schedule = config.schedule;
  if (schedule.warmup > train.steps) {
    config.fail_at("schedule.warmup",
                   fmt::format("({}) must not exceed train.steps ({})", schedule.warmup, train.steps));
  }
  if (schedule.decay_steps && *schedule.decay_steps > train.steps - schedule.warmup) {
    config.fail_at("schedule.decay_steps",
                   fmt::format("({}) must not exceed the {} steps that schedule.warmup leaves of train.steps",
                               *schedule.decay_steps, train.steps - schedule.warmup));
  }
  if (config.log.eval_every > 0 && config.data.valid.empty() && config.places.contains("log.eval_every")) {
    config.fail_at("log.eval_every", "needs data.valid, a held-out token file");
  }
}

// With init.from keys left out come from there, and what must fit together is known once it is read.
void check_model(const Node& model, const Config& config) {
  const Node* name = model.find("family");
  if (name == nullptr) {
    if (config.init.from) return;
    yaml::fail_at(model.place, "model lacks the key family");
  }
  try {
    find_family(config.model.family);
  } catch (const Error& e) {
    yaml::fail_at(name->place, e.what());
  }
  const Family& family = find_family(config.model.family);
  std::vector<std::string> known{"family"};
  for (const ConfigKey& key : family.keys) known.push_back(key.name);
  for (const auto& [alias, key] : family.aliases) known.push_back(alias);
  for (const yaml::Entry& entry : model.entries) {
    if (entry.key == "rope_theta" || entry.key == "rope_scaling") continue;  // merged into rope_parameters
    if (std::find(known.begin(), known.end(), entry.key) == known.end()) {
      yaml::fail_at(entry.key_place, fmt::format("unknown key '{}' in model, of family {}{}", entry.key,
                                                 family.model_type, did_you_mean(entry.key, known)));
    }
    if (entry.key == "family") continue;
    const Json one = {{entry.key, (*config.model.keys)[entry.key]}};
    try {  // its type, with this key's own place
      complete_config(family, one, entry.value.place.text(), true);
    } catch (const Error& e) {
      throw Error(e.what(), ExitCode::usage);
    }
  }
  if (config.init.from) return;
  Json keys = *config.model.keys;
  // Left out, it comes from the tokenizer; until then no token id is outside it.
  if (!keys.contains("vocab_size")) keys["vocab_size"] = 1 << 20;
  const std::string origin = model.place.text();
  try {  // sizes that must fit together
    make_release_config(family, keys, origin);
  } catch (const Error& e) {
    std::string message = e.what();
    if (message.starts_with(origin + ": ")) message = message.substr(origin.size() + 2);
    yaml::Place place = model.place;  // of the key that the message names, if the file has it
    for (const yaml::Entry& entry : model.entries) {
      if (message.find("'" + entry.key + "'") != std::string::npos) place = entry.value.place;
    }
    yaml::fail_at(place, message);
  }
}

// `fits`: whether to check that keys fit together.
Config read_tree(const Node& root, bool fits) {
  if (root.kind != Kind::map) {
    yaml::fail_at(root.place,
                  fmt::format("a config is a map of sections, found {}", yaml::kind_name(root.kind)));
  }
  std::vector<std::string> names;
  for (const Section& section : fields::sections()) names.push_back(section.name);
  for (const yaml::Entry& entry : root.entries) {
    if (std::find(names.begin(), names.end(), entry.key) == names.end()) {
      std::string all;
      for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
      yaml::fail_at(entry.key_place, fmt::format("unknown section '{}'{}; there are: {}", entry.key,
                                                 did_you_mean(entry.key, names), all));
    }
  }
  const Node* init = root.find("init");
  const Node* from = init != nullptr && init->kind == Kind::map ? init->find("from") : nullptr;
  if (root.find("model") == nullptr && (from == nullptr || from->kind == Kind::null))
    yaml::fail_at(root.place, "the section model is missing; or name a model to begin from in init.from");
  Config config;
  note_places(root, "", config);
  for (const Section& section : fields::sections()) {
    if (const Node* node = root.find(section.name)) {
      read_section(section, *node, config);
    } else if (section.required) {
      yaml::fail_at(root.place, fmt::format("the section {} is missing", section.name));
    }
  }
  if (const Node* model = root.find("model")) check_model(*model, config);
  if (fits) check(config);
  return config;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts{""};
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// The child of `node` that `part` names, made where absent.
Node& child(Node& node, const std::string& part, const std::string& place) {
  const bool index = !part.empty() && part.size() < 7 &&
                     std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
  const yaml::Place here{std::make_shared<const std::string>(place), 0, 0};
  if (node.kind == Kind::sequence) {
    if (!index) fail_usage("{}: '{}' must be an index, since a list is meant", place, part);
    const std::size_t i = std::stoul(part);
    if (i > node.items.size())
      fail_usage("{}: the list has {} entries; {} is beyond its end", place, node.items.size(), i);
    if (i == node.items.size()) {
      node.items.emplace_back();
      node.items.back().place = here;
    }
    return node.items[i];
  }
  if (node.kind == Kind::null) {
    node.kind = Kind::map;
    node.place = here;
  }
  if (node.kind != Kind::map)
    fail_usage("{}: '{}' is inside {}, which has no keys", place, part, yaml::kind_name(node.kind));
  if (Node* found = node.find(part)) return *found;
  node.entries.push_back({part, here, {}});
  node.entries.back().value.place = here;
  return node.entries.back().value;
}

void apply_override(Node& root, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    fail_usage("override '{}' is not of the form key=value, such as train.steps=100", text);
  }
  const std::string place = "override " + text;
  const std::vector<std::string> parts = split(text.substr(0, equals), '.');
  if (parts.size() > 64) fail_usage("{}: more than 64 levels", place);
  Node* node = &root;
  for (const std::string& part : parts) {
    if (part.empty()) fail_usage("{}: the key has an empty part", place);
    node = &child(*node, part, place);
  }
  *node = yaml::parse_value(text.substr(equals + 1), place);
}

}  // namespace

ModelConfig::ModelConfig() : keys(std::make_shared<const Json>(Json::object())) {}

void Config::fail_at(const std::string& key, const std::string& message) const {
  const auto place = places.find(key);
  if (place == places.end()) fail_usage("{} {}", key, message);
  fail_usage("{}: {} {}", place->second, key, message);
}

Config parse_config(const std::string& text, const std::string& origin,
                    const std::vector<std::string>& overrides) {
  Node root = yaml::parse(text, origin);
  for (const std::string& override_text : overrides) apply_override(root, override_text);
  return read_tree(root, true);
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  std::string text;
  try {
    text = io::read_text(path, std::uint64_t{1} << 24);
  } catch (const Error& e) {
    throw Error(e.what(), ExitCode::usage);
  }
  return parse_config(text, path.string(), overrides);
}

Config config_from_json(const std::string& text, const std::string& origin) {
  return read_tree(fields::from_json(parse_json(text, origin), origin), false);
}

}  // namespace tessera
