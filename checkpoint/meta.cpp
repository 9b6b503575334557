#include "checkpoint/meta.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace tessera {

const Json& meta_member(const Json& object, const std::string& key, const std::string& origin) {
  if (!object.is_object())
    fail("{}: an object with '{}' is expected instead of {}", origin, key, object.type_name());
  const auto found = object.find(key);
  if (found == object.end()) fail("{}: '{}' is missing", origin, key);
  return *found;
}

std::int64_t meta_number(const Json& object, const std::string& key, const std::string& origin,
                         std::int64_t low, std::int64_t high) {
  const Json& value = meta_member(object, key, origin);
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) ||
      value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    fail("{}: '{}' is {}; a whole number from {} to {} is expected", origin, key,
         value.is_number() ? value.dump() : value.type_name(), low, high);
  return value.get<std::int64_t>();
}

std::string meta_text(const Json& object, const std::string& key, const std::string& origin) {
  const Json& value = meta_member(object, key, origin);
  if (!value.is_string()) fail("{}: '{}' is {}; a text is expected", origin, key, value.type_name());
  return value.get<std::string>();
}

}  // namespace tessera
