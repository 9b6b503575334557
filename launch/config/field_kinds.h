// Makers of the table's fields, one for each kind of value: they tie a member of Config to how it is read,
// checked, printed and described. Internal to launch/config.
#pragma once

#include <limits>

#include "core/base/error.h"
#include "launch/advice.h"
#include "launch/config/fields.h"

namespace tessera::fields {

using yaml::Kind;
using yaml::Node;

constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

// Reads of one value; `name` is the key, for messages. They throw Error with the node's place.

std::string found(const Node& node);  // what was found, for "…, found …"
[[noreturn]] void wrong(const Node& node, const std::string& name, const std::string& wanted);
std::int64_t integer_in(const Node& node, const std::string& name, std::int64_t low, std::int64_t high);
const std::string& text_of(const Node& node, const std::string& name);

// A range of numbers; an open end is not part of it.
struct Range {
  double low = 0;
  bool open_low = false;
  double high = std::numeric_limits<double>::infinity();  // itself never part of it
  std::string text() const;
  Json schema() const;
};

double number_in(const Node& node, const std::string& name, const Range& range);

// The builders below take `member`: a generic lambda from a (const) Config to the member.

template <class Member>
Field integer(const std::string& name, Member member, std::int64_t low, const std::string& help,
              std::int64_t high = no_limit) {
  using Value = std::remove_reference_t<decltype(member(std::declval<Config&>()))>;
  Json schema = {{"type", "integer"}, {"minimum", low}};
  if (high != no_limit) schema["maximum"] = high;
  return {name, help, schema,
          [=](const Node& node, Config& config) {
            member(config) = static_cast<Value>(integer_in(node, name, low, high));
          },
          [=](const Config& config) { return Json(member(config)); }};
}

// An optional count whose absence is written `auto`.
template <class Member>
Field auto_integer(const std::string& name, Member member, std::int64_t high, const std::string& help) {
  using Optional = std::remove_reference_t<decltype(member(std::declval<Config&>()))>;
  return {name,
          help,
          {{"oneOf",
            Json::array({{{"const", "auto"}}, {{"type", "integer"}, {"minimum", 1}, {"maximum", high}}})}},
          [=](const Node& node, Config& config) {
            member(config).reset();
            if (node.kind == Kind::string && node.text == "auto") return;
            if (node.kind != Kind::integer || node.integer < 1 || node.integer > high) {
              wrong(node, name, fmt::format("auto or an integer from 1 to {}", high));
            }
            member(config) = static_cast<typename Optional::value_type>(node.integer);
          },
          [=](const Config& config) { return member(config) ? Json(*member(config)) : Json("auto"); }};
}

// A list of counts, whose emptiness is written `auto`.
template <class Member>
Field counts(const std::string& name, Member member, const std::string& help) {
  const Json list = {{"type", "array"}, {"items", {{"type", "integer"}, {"minimum", 1}}}, {"minItems", 1}};
  return {name,
          help,
          {{"oneOf", Json::array({{{"const", "auto"}}, list})}},
          [=](const Node& node, Config& config) {
            member(config).clear();
            if (node.kind == Kind::string && node.text == "auto") return;
            if (node.kind != Kind::sequence || node.items.empty())
              wrong(node, name, "auto or a list of counts, such as [9, 8, 8, 7]");
            for (const Node& item : node.items)
              member(config).push_back(integer_in(item, name, 1, std::int64_t{1} << 20));
          },
          [=](const Config& config) { return member(config).empty() ? Json("auto") : Json(member(config)); }};
}

template <class Member>
Field number(const std::string& name, Member member, const Range& range, const std::string& help) {
  return {name, help, range.schema(),
          [=](const Node& node, Config& config) { member(config) = number_in(node, name, range); },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field flag(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", "boolean"}},
          [=](const Node& node, Config& config) {
            if (node.kind != Kind::boolean) wrong(node, name, "true or false");
            member(config) = node.boolean;
          },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field text(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", "string"}, {"minLength", 1}},
          [=](const Node& node, Config& config) { member(config) = text_of(node, name); },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field optional_text(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", Json::array({"string", "null"})}, {"minLength", 1}},
          [=](const Node& node, Config& config) {
            member(config).reset();
            if (node.kind != Kind::null) member(config) = text_of(node, name);
          },
          [=](const Config& config) { return member(config) ? Json(*member(config)) : Json(); }};
}

// One of several words; `values[i]` is what `words[i]` stands for.
template <class Member, class Value>
Field choice(const std::string& name, Member member, const std::vector<std::pair<std::string, Value>>& values,
             const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, value] : values) words.push_back(word);
  return {name,
          help,
          {{"enum", words}},
          [=](const Node& node, Config& config) {
            for (const auto& [word, value] : values) {
              if (node.kind == Kind::string && node.text == word) {
                member(config) = value;
                return;
              }
            }
            std::string all;
            for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
            const std::string wanted = words.size() == 1 ? all : "one of " + all;
            yaml::fail_at(node.place,
                          fmt::format("{} must be {}, found {}{}", name, wanted, found(node),
                                      node.kind == Kind::string ? advice_on(node.text, words) : ""));
          },
          [=](const Config& config) {
            for (const auto& [word, value] : values) {
              if (value == member(config)) return Json(word);
            }
            return Json();
          }};
}

inline Field required(Field field) {
  field.required = true;
  return field;
}

inline Field identity(Field field) {
  field.identity = true;
  return field;
}

}  // namespace tessera::fields
