// A YAML document as a tree with places, read strictly. The only door to yaml-cpp, whose laxness it refuses:
// duplicate keys, `<<`, tags, alias cycles and bombs, a second document, bad UTF-8, numbers that look octal,
// more than 1 MiB, 64 levels or 100,000 nodes (aliases count as what they stand for).
//
// Plain scalars follow YAML 1.2's core schema; quoted ones are always strings. Everything throws Error with
// exit code 2 and a message that begins with the place. Values; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::yaml {

// Where a node was written; line and column count from 1, 0 where there are none (an override, a checkpoint).
struct Place {
  std::shared_ptr<const std::string> origin;
  int line = 0;
  int column = 0;
  std::string text() const;  // "demo.yaml:4:17"
};

enum class Kind { null, boolean, integer, real, string, sequence, map };

struct Entry;

struct Node {
  Kind kind = Kind::null;
  Place place;
  std::string text;            // of a scalar, as written
  std::int64_t integer = 0;    // of integer
  double real = 0;             // of integer and real; finite
  bool boolean = false;        // of boolean
  std::vector<Node> items;     // of sequence
  std::vector<Entry> entries;  // of map, in file order, keys unique

  const Node* find(std::string_view key) const;  // of a map; nullptr where absent
  Node* find(std::string_view key);
};

struct Entry {
  std::string key;
  Place key_place;
  Node value;
};

// "an integer", "a list", … for messages.
const char* kind_name(Kind kind);

// Throws Error with exit code 2: "<place>: <message>".
[[noreturn]] void fail_at(const Place& place, const std::string& message);

// Parses one document. An empty one is refused.
Node parse(const std::string& text, const std::string& origin);

// Parses the value of an override: one scalar or flow collection; empty text is null.
Node parse_value(const std::string& text, const std::string& origin);

// Gives a node the kind and value that YAML 1.2's core schema gives its plain text.
void resolve_plain(Node& node);

// How a string must be written in YAML to be read back as that string: bare where that is safe, else quoted.
std::string quote_if_needed(const std::string& text);

}  // namespace tessera::yaml
