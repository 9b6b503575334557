#include "launch/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>
#include <unordered_set>

#include "core/base/error.h"

namespace tessera::yaml {
namespace {

constexpr std::size_t byte_limit = std::size_t{1} << 20;
constexpr std::size_t level_limit = 64;
constexpr std::size_t node_limit = 100'000;

std::size_t count_nodes(const Node& node) {
  std::size_t count = 1;
  for (const Node& item : node.items) count += count_nodes(item);
  for (const Entry& entry : node.entries) count += count_nodes(entry.value);
  return count;
}

std::size_t count_levels(const Node& node) {
  std::size_t deepest = 0;
  for (const Node& item : node.items) deepest = std::max(deepest, count_levels(item));
  for (const Entry& entry : node.entries) deepest = std::max(deepest, count_levels(entry.value));
  return deepest + (node.kind == Kind::sequence || node.kind == Kind::map ? 1 : 0);
}

// Builds the tree from the parser's events, checking as it goes, so that a hostile document is given up
// early.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::shared_ptr<const std::string> origin, bool lines)
      : origin_(std::move(origin)), lines_(lines) {}

  Node take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) fail_at(at(mark), "a second document begins here; a config is one document");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Node node;
    node.place = at(mark);
    begin(node.place);
    finish(std::move(node), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) fail_at(at(mark), "an alias inside what it stands for: a cycle");
    count(at(mark), count_nodes(found->second));
    if (stack_.size() + count_levels(found->second) > level_limit) too_deep(at(mark));
    if (expects_key()) fail_at(at(mark), "an alias cannot be a key");
    attach(found->second);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node;
    node.place = at(mark);
    node.text = value;
    node.kind = Kind::string;
    const bool plain = tag == "?" || tag.empty();
    if (!plain && tag != "!") refuse_tag(node.place, tag);
    begin(node.place);
    if (expects_key()) {
      start_entry(node, plain, anchor);
      return;
    }
    if (plain) resolve_plain(node);
    finish(std::move(node), anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Kind::sequence, at(mark), tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Kind::map, at(mark), tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor;
    bool key_read = false;  // of a map: its last entry waits for a value
    std::unordered_set<std::string> keys;
  };

  Place at(const YAML::Mark& mark) const {
    return lines_ ? Place{origin_, mark.line + 1, mark.column + 1} : Place{origin_, 0, 0};
  }
  bool expects_key() const {
    return !stack_.empty() && stack_.back().node.kind == Kind::map && !stack_.back().key_read;
  }

  [[noreturn]] static void too_deep(const Place& place) {
    fail_at(place, fmt::format("more than {} levels of nesting", level_limit));
  }
  [[noreturn]] static void refuse_tag(const Place& place, const std::string& tag) {
    fail_at(place, fmt::format("the tag '{}' is not used in configs; remove it", tag));
  }

  void count(const Place& place, std::size_t nodes) {
    nodes_ += nodes;
    if (nodes_ > node_limit) fail_at(place, fmt::format("more than {} values", node_limit));
  }

  void begin(const Place& place) { count(place, 1); }

  void start_entry(const Node& key, bool plain, YAML::anchor_t anchor) {
    if (anchor != 0) fail_at(key.place, "an anchor on a key is not used in configs; remove it");
    if (plain && key.text == "<<")
      fail_at(key.place, "merge keys ('<<') are not supported; write the keys out");
    Open& open = stack_.back();
    if (!open.keys.insert(key.text).second) {
      for (const Entry& entry : open.node.entries) {
        if (entry.key == key.text) {
          fail_at(key.place, fmt::format("duplicate key '{}'; it is first given at line {}", key.text,
                                         entry.key_place.line));
        }
      }
    }
    open.node.entries.push_back({key.text, key.place, {}});
    open.key_read = true;
  }

  void open(Kind kind, const Place& place, const std::string& tag, YAML::anchor_t anchor) {
    if (tag != "?" && !tag.empty()) refuse_tag(place, tag);
    begin(place);
    if (expects_key()) fail_at(place, "a key must be a word, not a list or a map");
    if (stack_.size() >= level_limit) too_deep(place);
    Open level{{}, anchor, false, {}};
    level.node.kind = kind;
    level.node.place = place;
    stack_.push_back(std::move(level));
  }

  void close() {
    Open done = std::move(stack_.back());
    stack_.pop_back();
    finish(std::move(done.node), done.anchor);
  }

  void finish(Node node, YAML::anchor_t anchor) {
    if (anchor != 0) {
      count(node.place, count_nodes(node));
      anchors_[anchor] = node;
    }
    attach(std::move(node));
  }

  void attach(Node node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = stack_.back();
    if (parent.node.kind == Kind::sequence) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.key_read) {
      Entry& entry = parent.node.entries.back();
      // What is not there is reported where it should be, not at the token that follows.
      if (node.kind == Kind::null && node.text.empty()) node.place = entry.key_place;
      entry.value = std::move(node);
      parent.key_read = false;
    } else {  // a null where a key should stand
      fail_at(node.place, "a key is missing before ':'");
    }
  }

  std::shared_ptr<const std::string> origin_;
  bool lines_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, Node> anchors_;
  std::size_t nodes_ = 0;
  int documents_ = 0;
  Node root_;
};

// The length of the UTF-8 sequence at the start of `text`, or 0 where it is none (RFC 3629).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F)) return 0;
    return continues(1) && continues(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if ((first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) return 0;
    return continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

void check_text(const std::string& text, const std::shared_ptr<const std::string>& origin, bool lines) {
  if (text.size() > byte_limit) fail_at({origin, 0, 0}, "larger than 1 MiB, which no config is");
  Place place{origin, 1, 1};
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(std::string_view(text).substr(i));
    if (length == 0) fail_at(lines ? place : Place{origin, 0, 0}, "not UTF-8; save the file as UTF-8");
    const char c = text[i];
    const bool control = (c >= 0 && c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7F;
    if (control)
      fail_at(lines ? place : Place{origin, 0, 0},
              fmt::format("control character 0x{:02x}", static_cast<unsigned>(c)));
    if (c == '\n') {
      ++place.line;
      place.column = 1;
    } else {
      ++place.column;
    }
    i += length;
  }
}

}  // namespace

namespace {

// Hears nothing: a parse for its errors alone.
class Silence : public YAML::EventHandler {
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

void hear(const std::string& text, YAML::EventHandler& handler) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  while (parser.HandleNextDocument(handler)) {
  }
}

// `lines`: whether places have them.
Node parse_text(const std::string& text, const std::string& origin_text, bool lines) {
  const auto origin = std::make_shared<const std::string>(origin_text);
  check_text(text, origin, lines);
  Builder builder(origin, lines);
  try {
    hear(text, builder);
    // yaml-cpp takes a quote that is never closed as ending with the file, but not before an end mark.
    Silence silence;
    if (text.find_first_of("\"'") != std::string::npos) hear(text + "\n...\n", silence);
  } catch (const YAML::Exception& e) {
    fail_at(
        lines && !e.mark.is_null() ? Place{origin, e.mark.line + 1, e.mark.column + 1} : Place{origin, 0, 0},
        fmt::format("not valid YAML: {}", e.msg));
  }
  return builder.take();
}

}  // namespace

Node parse(const std::string& text, const std::string& origin) {
  Node root = parse_text(text, origin, true);
  if (root.kind == Kind::null)
    fail_usage("{}: empty; a config needs at least model, data, train and optimizer", origin);
  return root;
}

Node parse_value(const std::string& text, const std::string& origin) {
  Node node = parse_text(text, origin, false);
  if (node.place.origin == nullptr) node.place.origin = std::make_shared<const std::string>(origin);
  return node;
}

}  // namespace tessera::yaml
