#include "launch/config/field_kinds.h"

namespace tessera::fields {

// What was found, for "…, found …".
std::string found(const Node& node) {
  const bool scalar = node.kind != Kind::sequence && node.kind != Kind::map && node.kind != Kind::null;
  return scalar ? fmt::format("'{}'", node.text) : yaml::kind_name(node.kind);
}

[[noreturn]] void wrong(const Node& node, const std::string& name, const std::string& wanted) {
  yaml::fail_at(node.place, fmt::format("{} must be {}, found {}", name, wanted, found(node)));
}

std::int64_t integer_in(const Node& node, const std::string& name, std::int64_t low, std::int64_t high) {
  constexpr std::int64_t beyond_use = 1 << 30;  // a bound from there on interests only who exceeds it
  const bool exceeded = node.kind == Kind::integer && node.integer > high;
  const std::string wanted = high >= beyond_use && !exceeded
                                 ? fmt::format("an integer of at least {}", low)
                                 : fmt::format("an integer from {} to {}", low, high);
  if (node.kind != Kind::integer || node.integer < low || node.integer > high) wrong(node, name, wanted);
  return node.integer;
}

const std::string& text_of(const Node& node, const std::string& name) {
  if (node.kind != Kind::string) {
    const bool scalar = node.kind == Kind::integer || node.kind == Kind::real || node.kind == Kind::boolean;
    wrong(node, name, scalar ? "a string (quote it)" : "a string");
  }
  if (node.text.empty()) yaml::fail_at(node.place, name + " must not be empty");
  return node.text;
}

std::string Range::text() const {
  if (high < std::numeric_limits<double>::infinity()) return fmt::format("a number in [{}, {})", low, high);
  return open_low ? fmt::format("a number above {}", low) : fmt::format("a number of at least {}", low);
}

Json Range::schema() const {
  Json out = {{"type", "number"}};
  out[open_low ? "exclusiveMinimum" : "minimum"] = low;
  if (high < std::numeric_limits<double>::infinity()) out["exclusiveMaximum"] = high;
  return out;
}

double number_in(const Node& node, const std::string& name, const Range& range) {
  const bool number = node.kind == Kind::integer || node.kind == Kind::real;
  const bool inside =
      (range.open_low ? node.real > range.low : node.real >= range.low) && node.real < range.high;
  if (!number || !inside) wrong(node, name, range.text());
  return node.real;
}

Json to_json(const Node& node) {
  switch (node.kind) {
    case Kind::null:
      return Json();
    case Kind::boolean:
      return Json(node.boolean);
    case Kind::integer:
      return Json(node.integer);
    case Kind::real:
      return Json(node.real);
    case Kind::string:
      return Json(node.text);
    case Kind::sequence: {
      Json out = Json::array();
      for (const Node& item : node.items) out.push_back(to_json(item));
      return out;
    }
    case Kind::map:
      break;
  }
  Json out = Json::object();
  for (const yaml::Entry& entry : node.entries) out[entry.key] = to_json(entry.value);
  return out;
}

namespace {

Node convert(const Json& json, const yaml::Place& place) {
  Node node;
  node.place = place;
  if (json.is_object()) {
    node.kind = Kind::map;
    for (const auto& [key, value] : json.items()) node.entries.push_back({key, place, convert(value, place)});
    return node;
  }
  if (json.is_array()) {
    node.kind = Kind::sequence;
    for (const Json& item : json) node.items.push_back(convert(item, place));
    return node;
  }
  if (json.is_string()) {
    node.kind = Kind::string;
    node.text = json.get<std::string>();
    return node;
  }
  node.text = json.dump();
  yaml::resolve_plain(node);
  return node;
}

}  // namespace

Node from_json(const Json& json, const std::string& origin) {
  return convert(json, {std::make_shared<const std::string>(origin), 0, 0});
}

}  // namespace tessera::fields
