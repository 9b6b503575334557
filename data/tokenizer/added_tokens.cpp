#include "data/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "core/base/error.h"

namespace tessera {
namespace {

struct Character {
  std::int32_t point = -1;  // -1: none
  std::size_t bytes = 0;
};

Character first_character(std::string_view text) {
  Character c;
  const auto n =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(std::min<std::size_t>(text.size(), 4)), &c.point);
  c.bytes = n > 0 ? static_cast<std::size_t>(n) : 0;
  return c;
}

Character last_character(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && begin + 4 > text.size()) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xc0U) != 0x80U) break;
  }
  return first_character(text.substr(begin));
}

// Unicode's White_Space.
bool is_space(std::int32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// \w of Unicode's regular expressions (UTS 18, annex C).
bool is_word(std::int32_t c) {
  if (c < 0) return false;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      break;
  }
  // Join controls, and symbols that are letters: circled, squared.
  return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
         (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

}  // namespace

void AddedTokens::add(const AddedToken& token, std::string text) {
  tokens_.emplace_back(std::move(text), &token);
}

void AddedTokens::build(const std::string& origin) {
  if (tokens_.empty()) return;
  std::sort(tokens_.begin(), tokens_.end());
  const auto twice = std::adjacent_find(tokens_.begin(), tokens_.end(),
                                        [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != tokens_.end())
    fail("{}: the added tokens with ids {} and {} are both '{}' in the text", origin, twice->second->id,
         std::next(twice)->second->id, twice->first);
  // Breadth first, so that a node's fallback is complete before the node: node i is a range of sorted tokens
  // that share their first `depth` bytes.
  struct Range {
    std::size_t begin, end;
  };
  std::vector<Range> ranges{{0, tokens_.size()}};
  nodes_.emplace_back();
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const std::size_t depth = nodes_[i].depth;
    auto [begin, end] = ranges[i];
    if (nodes_[i].token != nullptr) ++begin;
    nodes_[i].first_edge = static_cast<std::uint32_t>(edges_.size());
    while (begin < end) {
      const auto byte = static_cast<unsigned char>(tokens_[begin].first[depth]);
      std::size_t stop = begin;
      while (stop < end && static_cast<unsigned char>(tokens_[stop].first[depth]) == byte) ++stop;
      const auto made = static_cast<std::uint32_t>(nodes_.size());
      edges_.push_back({byte, made});
      ++nodes_[i].edges;
      if (i == 0) from_root_[byte] = made;
      Node node;
      node.depth = static_cast<std::uint32_t>(depth + 1);
      if (tokens_[begin].first.size() == depth + 1) node.token = tokens_[begin].second;
      if (i != 0) {
        std::uint32_t back = nodes_[i].fallback;
        while (back != 0 && child(back, byte) == 0) back = nodes_[back].fallback;
        node.fallback = child(back, byte);
        const Node& suffix = nodes_[node.fallback];
        node.suffix_token = suffix.token != nullptr ? node.fallback : suffix.suffix_token;
      }
      nodes_.push_back(node);
      ranges.push_back({begin, stop});
      begin = stop;
    }
  }
  tokens_.clear();
  tokens_.shrink_to_fit();
}

std::uint32_t AddedTokens::child(std::uint32_t node, unsigned char byte) const {
  if (node == 0) return from_root_[byte];
  const auto begin = edges_.begin() + nodes_[node].first_edge;
  const auto end = begin + nodes_[node].edges;
  const auto found =
      std::lower_bound(begin, end, byte, [](const Edge& e, unsigned char b) { return e.byte < b; });
  return found != end && found->byte == byte ? found->node : 0;
}

AddedTokens::Match AddedTokens::find(std::string_view text, std::size_t from) const {
  Match best{text.size(), text.size(), nullptr};
  std::uint32_t node = 0;
  for (std::size_t at = from; at < text.size(); ++at) {
    if (node == 0)
      while (from_root_[static_cast<unsigned char>(text[at])] == 0)
        if (++at == text.size()) return best;
    const auto byte = static_cast<unsigned char>(text[at]);
    std::uint32_t to = child(node, byte);
    while (to == 0 && node != 0) {
      node = nodes_[node].fallback;
      // What is left of the text read begins behind the match: nothing to the left of it, or longer, can
      // come.
      if (best.token != nullptr && at - nodes_[node].depth > best.begin) return best;
      to = child(node, byte);
    }
    node = to;
    const std::uint32_t ends = nodes_[node].token != nullptr ? node : nodes_[node].suffix_token;
    if (ends == 0) continue;
    const std::size_t begin = at + 1 - nodes_[ends].depth;
    if (best.token == nullptr || begin <= best.begin) best = {begin, at + 1, nodes_[ends].token};
  }
  return best;
}

bool AddedTokens::wanted(std::string_view text, const Match& match, bool special) {
  if (match.token->special && !special) return false;
  return !match.token->single_word || (!is_word(last_character(text.substr(0, match.begin)).point) &&
                                       !is_word(first_character(text.substr(match.end)).point));
}

AddedTokens::Match AddedTokens::stripped(std::string_view text, Match match, std::size_t done) {
  if (match.token->lstrip)
    while (match.begin > done) {
      const Character c = last_character(text.substr(0, match.begin));
      if (!is_space(c.point)) break;
      match.begin -= c.bytes;
    }
  if (match.token->rstrip)
    while (match.end < text.size()) {
      const Character c = first_character(text.substr(match.end));
      if (!is_space(c.point)) break;
      match.end += c.bytes;
    }
  return match;
}

}  // namespace tessera
