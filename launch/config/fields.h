// The table of config keys, from which reading, printing, the schema and the comparison of two configs
// follow. Internal to launch/config.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/yaml.h"

namespace tessera::fields {

struct Field {
  std::string name;
  std::string help;
  Json schema;  // type and bounds, without help and default
  std::function<void(const yaml::Node&, Config&)> read;
  std::function<Json(const Config&)> write;
  bool required = false;
  bool identity = false;  // defines the model or the data stream
};

struct Section {
  std::string name;
  std::string help;
  std::vector<Field> fields;
  // Of a section with keys that the table does not list (model, kernels): what to do with one entry, what to
  // print, and the schema of a value.
  std::function<void(const std::vector<const yaml::Entry*>&, Config&)> read_others;
  std::function<Json(const Config&)> write_others;
  Json others_schema;
  bool required = false;
};

const std::vector<Section>& sections();

// A node as JSON (of a checkpoint's config: the other way round, every node placed at `origin`).
Json to_json(const yaml::Node& node);
yaml::Node from_json(const Json& json, const std::string& origin);

}  // namespace tessera::fields
