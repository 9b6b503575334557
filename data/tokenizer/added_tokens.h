// Finds added tokens in text: of all that begin leftmost the longest, in time that does not depend on how
// many there are. Internal to data/tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct AddedToken {
  std::uint32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;              // looked for in normalised text, else in the text as given
  bool lstrip = false, rstrip = false;  // takes white space on that side along
  bool single_word = false;             // not where a letter, mark or digit touches it
};

// An Aho-Corasick automaton over bytes. Immutable after build(); any thread.
class AddedTokens {
 public:
  // `token` must outlive this; it is looked for as `text`.
  void add(const AddedToken& token, std::string text);
  // Throws Error naming `origin` if two tokens have one text.
  void build(const std::string& origin);

  // Cuts `text` as the Python package tokenizers does: calls on_text(begin, end) and on_token(token) in
  // order. A special token is not looked at unless `special`, and yet hides what lies within it.
  template <class OnText, class OnToken>
  void split(std::string_view text, bool special, OnText on_text, OnToken on_token) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size() && !nodes_.empty();) {
      const Match match = find(text, at);
      if (match.token == nullptr) break;
      at = match.end;
      if (!wanted(text, match, special)) continue;
      const Match whole = stripped(text, match, done);
      if (done < whole.begin) on_text(done, whole.begin);
      on_token(*match.token);
      done = whole.end;
    }
    if (done < text.size()) on_text(done, text.size());
  }

 private:
  struct Match {
    std::size_t begin, end;
    const AddedToken* token;
  };
  struct Node {
    std::uint32_t first_edge = 0, edges = 0;
    std::uint32_t fallback = 0;      // the node of the longest proper suffix
    std::uint32_t suffix_token = 0;  // the nearest node along fallbacks that ends a token, or 0
    std::uint32_t depth = 0;
    const AddedToken* token = nullptr;
  };
  struct Edge {
    unsigned char byte;
    std::uint32_t node;
  };
  std::uint32_t child(std::uint32_t node, unsigned char byte) const;  // 0 if there is none
  Match find(std::string_view text, std::size_t from) const;
  static bool wanted(std::string_view text, const Match& match, bool special);
  static Match stripped(std::string_view text, Match match, std::size_t done);

  std::vector<std::pair<std::string, const AddedToken*>> tokens_;  // until build()
  std::vector<Node> nodes_;                                        // empty without tokens; the root is 0
  std::vector<Edge> edges_;                                        // of each node together, by byte
  std::array<std::uint32_t, 256> from_root_{};
};

}  // namespace tessera
