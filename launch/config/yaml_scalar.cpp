// Scalars of YAML: what plain text means, and how to write a string so that it stays one.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "core/base/error.h"
#include "launch/config/yaml.h"

namespace tessera::yaml {
namespace {

bool digit(char c) {
  return c >= '0' && c <= '9';
}

std::size_t skip_digits(std::string_view text, std::size_t i) {
  while (i < text.size() && digit(text[i])) ++i;
  return i;
}

bool is_integer(std::string_view text) {
  const std::size_t begin = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return begin < text.size() && skip_digits(text, begin) == text.size();
}

// [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
bool is_real(std::string_view text) {
  std::size_t i = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const std::size_t whole = skip_digits(text, i) - i;
  i += whole;
  std::size_t fraction = 0;
  if (i < text.size() && text[i] == '.') {
    fraction = skip_digits(text, i + 1) - i - 1;
    i += 1 + fraction;
  }
  if (whole + fraction == 0) return false;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    const std::size_t end = skip_digits(text, i);
    if (end == i) return false;
    i = end;
  }
  return i == text.size();
}

// Texts that programs read as different numbers: 010 is 8 or 10, 0x10, 0o17 and 1_000 are numbers to some.
bool is_ambiguous(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  if (text.size() < 2 || !digit(text[0])) return false;
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o' || text[1] == 'b')) {
    return text.size() > 2 && std::all_of(text.begin() + 2, text.end(), [](char c) {
             return std::isxdigit(static_cast<unsigned char>(c)) != 0 || c == '_';
           });
  }
  const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return digit(c) || c == '_'; });
  if (digits) return text[0] == '0' || text.find('_') != std::string_view::npos;
  return text[0] == '0' && digit(text[1]) && is_real(text);
}

template <class T>
bool convert(std::string_view text, T& value) {
  if (text[0] == '+') text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

}  // namespace

std::string Place::text() const {
  return line > 0 ? fmt::format("{}:{}:{}", *origin, line, column) : *origin;
}

void fail_at(const Place& place, const std::string& message) {
  fail_usage("{}: {}", place.text(), message);
}

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::null:
      return "nothing";
    case Kind::boolean:
      return "true or false";
    case Kind::integer:
      return "an integer";
    case Kind::real:
      return "a number";
    case Kind::string:
      return "a string";
    case Kind::sequence:
      return "a list";
    case Kind::map:
      return "a map";
  }
  return "";
}

namespace {

template <class Map>
auto* find_in(Map& node, std::string_view key) {
  for (auto& entry : node.entries) {
    if (entry.key == key) return &entry.value;
  }
  return static_cast<decltype(&node)>(nullptr);
}

}  // namespace

const Node* Node::find(std::string_view key) const {
  return find_in(*this, key);
}
Node* Node::find(std::string_view key) {
  return find_in(*this, key);
}

void resolve_plain(Node& node) {
  const std::string& text = node.text;
  node.kind = Kind::string;
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
    node.kind = Kind::null;
  } else if (text == "true" || text == "True" || text == "TRUE") {
    node.kind = Kind::boolean;
    node.boolean = true;
  } else if (text == "false" || text == "False" || text == "FALSE") {
    node.kind = Kind::boolean;
  } else if (is_ambiguous(text)) {
    fail_at(node.place,
            fmt::format("'{}' is read as different numbers by different programs; write it in decimal "
                        "without leading zeros or underscores, or quote it",
                        text));
  } else if (is_integer(text)) {
    node.kind = Kind::integer;
    if (!convert(text, node.integer)) fail_at(node.place, fmt::format("{} does not fit into 64 bits", text));
    node.real = static_cast<double>(node.integer);
  } else if (is_real(text)) {
    node.kind = Kind::real;
    if (!convert(text, node.real) || !std::isfinite(node.real)) {
      fail_at(node.place, fmt::format("{} is out of range of a double", text));
    }
  }
}

std::string quote_if_needed(const std::string& text) {
  const auto safe = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '/' || c == '.' || c == '-' ||
           c == '+';
  };
  const bool first_safe =
      !text.empty() && (std::isalpha(static_cast<unsigned char>(text[0])) != 0 || text[0] == '/' ||
                        text[0] == '_' || (text[0] == '.' && text.size() > 1 && !digit(text[1])));
  // Words that YAML 1.1 readers take for something else are quoted too.
  static const char* const words[] = {"y", "n",    "yes",  "no",    "on",   "off",
                                      "~", "null", "true", "false", ".nan", ".inf"};
  std::string lower = text;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool word =
      std::any_of(std::begin(words), std::end(words), [&](const char* w) { return lower == w; });
  if (first_safe && !word && std::all_of(text.begin(), text.end(), safe)) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if ((c >= 0 && c < 0x20) || c == 0x7F) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace tessera::yaml
