// Sets of characters as PCRE2 writes them: what stands in a class, and what a class cannot hold. Internal to
// data/tokenizer.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// A union of a class's items ("a-z\p{L}") and of expressions that match exactly one character each.
struct CharacterSet {
  std::string items;
  std::vector<std::string> expressions;
  // Whether a case-insensitive class of Oniguruma's would take in characters beyond what PCRE2's does.
  bool cased = false;

  void add(const CharacterSet& other);
  // A PCRE2 expression for one character of the set, or for one that is not of it; a repeat may follow.
  std::string expression(bool negated = false) const;
};

CharacterSet complement(const CharacterSet& set);
CharacterSet intersection(const CharacterSet& a, const CharacterSet& b);

// What \p{name} means to Oniguruma, in whatever spelling; nullopt for names that are not known here.
std::optional<CharacterSet> property_set(std::string_view name);
// What [:name:] means in a class, which is not always the property of the name.
std::optional<CharacterSet> posix_set(std::string_view name);
CharacterSet space_set();  // \s: Unicode's White_Space
// \w, which outside classes holds Latin-1's fractions and exponents too.
CharacterSet word_set(bool in_class);
CharacterSet digit_set();  // \d
CharacterSet hex_set();    // \h

// One character, escaped for use inside a class and outside.
std::string pcre2_character(char32_t character);
// Whether letter case, or a fold to several characters, concerns the character beyond ASCII.
bool folds_beyond_ascii(char32_t character);

}  // namespace tessera
