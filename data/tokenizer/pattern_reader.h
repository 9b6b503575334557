// Reads Oniguruma's patterns character by character: escapes, properties, classes. Internal to
// data/tokenizer.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "data/tokenizer/character_set.h"

namespace tessera {

class PatternReader {
 public:
  // Valid UTF-8; `origin` begins every message. Both must outlive the reader.
  PatternReader(const std::string& pattern, const std::string& origin);

 protected:
  // Throws Error that names the construct and where it stands.
  [[noreturn]] void refuse(const std::string& what) const;

  bool done() const { return at_ >= source_.size(); }
  char32_t peek(std::size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : U'\0';
  }
  bool looking_at(std::u32string_view text) const {
    return std::u32string_view(source_).substr(at_).starts_with(text);
  }
  bool take(std::u32string_view text) {
    if (!looking_at(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t next() {
    if (done()) refuse("an unfinished construct");
    return source_[at_++];
  }

  // The set that \s, \W, … name; nullopt for other letters.
  static std::optional<CharacterSet> shorthand(char32_t c, bool in_class);
  CharacterSet property(bool negated);  // from after \p or \P
  // The character that an escape stands for, from after the backslash; nullopt if it stands for something
  // else.
  std::optional<char32_t> escaped_character(bool in_class);
  // A class from after its [, to its ]: unions joined by &&, all of it perhaps negated.
  CharacterSet class_body(int depth = 0);

  static bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
  static char32_t lower(char32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

  std::u32string source_;
  std::size_t at_ = 0;
  bool ignore_case_ = false;

 private:
  char32_t code_point(int fewest, int most);
  CharacterSet class_union(int depth);
  CharacterSet posix_bracket();
  void add_range(CharacterSet& set, char32_t first, char32_t last);

  const std::string& pattern_;
  const std::string& origin_;
};

// The characters of valid UTF-8.
std::u32string code_points(const std::string& text);

}  // namespace tessera
