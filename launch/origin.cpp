#include "launch/origin.h"

#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/retention.h"
#include "core/base/error.h"

namespace tessera {
namespace {

// Where to read it: the run's newest checkpoint, so that a run does not need init.from any more once it has
// begun.
std::string place_of_origin(const Config& config) {
  return list_checkpoints(config.checkpoint.dir).empty() ? *config.init.from : config.checkpoint.dir;
}

// `given` under the family's own names.
Json without_aliases(const Family& family, const Json& given) {
  Json keys = Json::object();
  for (const auto& [name, value] : given.items()) {
    std::string key = name;
    for (const auto& [alias, meant] : family.aliases)
      if (alias == name) key = meant;
    keys[key] = value;
  }
  return keys;
}

void refuse_differences(const Config& config, const Json& given, const ReleaseConfig& theirs) {
  Json merged = *theirs.config;
  merged.update(given);
  const ReleaseConfig ours = make_release_config(*theirs.family, merged, "model");
  for (const std::string& key : model_differences(ours, theirs))
    config.fail_at("model." + key, fmt::format("is {}, but {} in '{}', which init.from names; leave it out",
                                               ours.config->at(key).dump(), theirs.config->at(key).dump(),
                                               *config.init.from));
}

}  // namespace

Origin take_origin(Config& config, Coordination& ranks) {
  Origin origin;
  std::string text;
  if (ranks.rank() == 0 && config.init.from) {
    const std::string place = place_of_origin(config);
    const ModelSource source = open_model(place);
    const ReleaseConfig& theirs = source.description().release;
    if (!config.model.family.empty() && config.model.family != theirs.family->model_type)
      config.fail_at("model.family", fmt::format("is {}, but '{}' holds a {} model", config.model.family,
                                                 place, theirs.family->model_type));
    if (place == *config.init.from)
      refuse_differences(config, without_aliases(*theirs.family, *config.model.keys), theirs);
    origin.place = source.origin();
    origin.files = source.description().files;
    text = theirs.config->dump();
  }
  text = ranks.broadcast_text(text);
  if (text.empty()) return origin;
  origin.place = ranks.broadcast_text(origin.place);
  origin.keys = parse_json(text, "init.from");
  const Family& family = find_family(origin.keys.at("model_type").get<std::string>());
  origin.keys.erase("model_type");
  const Json given = without_aliases(family, *config.model.keys);
  if (config.model.family.empty()) complete_config(family, given, "model", true);  // knows every key
  Json keys = Json::object();
  for (const ConfigKey& key : family.keys)
    keys[key.name] = given.contains(key.name) ? given.at(key.name) : origin.keys.at(key.name);
  config.model.family = family.model_type;
  config.model.keys = std::make_shared<const Json>(std::move(keys));
  return origin;
}

}  // namespace tessera
