#include "data/tokenizer/pattern_reader.h"

#include <algorithm>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr int deepest = 200;

int hex_value(char32_t c) {
  if (c >= '0' && c <= '9') return static_cast<int>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<int>(c - 'a') + 10;
  if (c >= 'A' && c <= 'F') return static_cast<int>(c - 'A') + 10;
  return -1;
}

}  // namespace

std::u32string code_points(const std::string& text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    char32_t c = length == 1 ? lead : lead & (0x7fU >> length);
    for (std::size_t k = 1; k < length; ++k) c = c << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3fU);
    out += c;
    i += length;
  }
  return out;
}

PatternReader::PatternReader(const std::string& pattern, const std::string& origin)
    : source_(code_points(pattern)), pattern_(pattern), origin_(origin) {}

void PatternReader::refuse(const std::string& what) const {
  fail("{}: the pre-tokenizer's pattern has {} at character {}, which this version does not read: {}",
       origin_, what, at_ + 1, pattern_.substr(0, 200));
}

std::optional<CharacterSet> PatternReader::shorthand(char32_t c, bool in_class) {
  switch (c) {
    case U's':
      return space_set();
    case U'S':
      return complement(space_set());
    case U'd':
      return digit_set();
    case U'D':
      return complement(digit_set());
    case U'w':
      return word_set(in_class);
    case U'W':
      return complement(word_set(in_class));
    case U'h':
      return hex_set();
    case U'H':
      return complement(hex_set());
    default:
      return std::nullopt;
  }
}

CharacterSet PatternReader::property(bool negated) {
  if (!take(U"{")) refuse("\\p without braces");
  if (take(U"^")) negated = !negated;
  std::string name;
  for (char32_t c = next(); c != U'}'; c = next()) name += c < 0x80 ? static_cast<char>(c) : '?';
  const auto set = property_set(name);
  if (!set) refuse("the property '" + name.substr(0, 40) + "'");
  return negated ? complement(*set) : *set;
}

std::optional<char32_t> PatternReader::escaped_character(bool in_class) {
  const char32_t c = next();
  switch (c) {
    case U't':
      return U'\t';
    case U'n':
      return U'\n';
    case U'r':
      return U'\r';
    case U'f':
      return U'\f';
    case U'v':
      return U'\v';
    case U'a':
      return U'\a';
    case U'e':
      return U'\x1b';
    case U'b':
      return in_class ? std::optional(U'\b') : std::nullopt;
    case U'0':
      return is_digit(peek()) ? std::nullopt : std::optional(U'\0');
    case U'u':
      return code_point(4, 4);
    case U'x': {
      if (take(U"{")) {
        const char32_t value = code_point(1, 8);
        if (!take(U"}")) refuse("an unusual \\x{…}");
        return value;
      }
      const char32_t value = code_point(1, 2);
      if (value >= 0x80) refuse("a byte \\x80 to \\xff");
      return value;
    }
    default:
      break;
  }
  if (is_digit(c) || (lower(c) >= U'a' && lower(c) <= U'z')) return std::nullopt;
  return c;
}

char32_t PatternReader::code_point(int fewest, int most) {
  std::uint64_t value = 0;
  int digits = 0;
  for (; digits < most && hex_value(peek()) >= 0 && !done(); ++digits)
    value = value << 4 | static_cast<std::uint64_t>(hex_value(next()));
  if (digits < fewest || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
    refuse("an escape that is no character");
  return static_cast<char32_t>(value);
}

CharacterSet PatternReader::class_body(int depth) {
  if (depth > deepest) refuse("classes nested too deeply");
  const bool negated = take(U"^");
  if (peek() == U']') refuse("a ] at the start of a class");
  CharacterSet set = class_union(depth);
  while (take(U"&&")) set = intersection(set, class_union(depth));
  if (!take(U"]")) refuse("a [ without its ]");
  return negated ? complement(set) : set;
}

CharacterSet PatternReader::class_union(int depth) {
  CharacterSet set;
  bool empty = true;
  bool after_class = false;  // a hyphen cannot begin a range
  for (; !done() && peek() != U']' && !looking_at(U"&&"); empty = false) {
    if (peek() == U'[') {
      if (peek(1) == U':') {
        set.add(posix_bracket());
      } else {
        ++at_;
        set.add(class_body(depth + 1));
      }
      after_class = true;
      if (peek() == U'-' && peek(1) != U']') refuse("a hyphen behind a class in a class");
      continue;
    }
    if (peek() == U'\\') {
      const char32_t c = peek(1);
      std::optional<CharacterSet> part = shorthand(c, true);
      if (part) {
        at_ += 2;
      } else if (c == U'p' || c == U'P') {
        at_ += 2;
        part = property(c == U'P');
      }
      if (part) {
        set.add(*part);
        after_class = true;
        if (peek() == U'-' && peek(1) != U']') refuse("a hyphen behind a class in a class");
        continue;
      }
    }
    const auto character = [&]() -> char32_t {
      const char32_t c = next();
      if (c == U'-' && peek() == U'-') refuse("two hyphens in a class");
      if (c != U'\\') return c;
      const auto escaped = escaped_character(true);
      if (!escaped) refuse("an unknown escape in a class");
      return *escaped;
    };
    const bool hyphen = peek() == U'-';
    if (hyphen && !empty && !after_class && peek(1) != U']') refuse("a hyphen in the middle of a class");
    const char32_t first = character();
    after_class = false;
    if (peek() != U'-' || peek(1) == U']' || (peek(1) == U'&' && peek(2) == U'&')) {
      add_range(set, first, first);
      continue;
    }
    if (hyphen) refuse("a range from a hyphen");
    ++at_;
    if (peek() == U'[' || (peek() == U'\\' && (shorthand(peek(1), true) || lower(peek(1)) == U'p')))
      refuse("a range that ends in a class");
    const char32_t last = character();
    if (last < first) refuse("a range whose ends are swapped");
    add_range(set, first, last);
    if (peek() == U'-' && peek(1) != U']') refuse("a hyphen behind a range");
  }
  if (empty) refuse("an empty class");
  return set;
}

void PatternReader::add_range(CharacterSet& set, char32_t first, char32_t last) {
  if (ignore_case_ && last >= 0x80)
    for (char32_t c = std::max<char32_t>(first, 0x80); c <= last; ++c)
      if (folds_beyond_ascii(c)) refuse("a letter beyond ASCII where case is ignored");
  set.items += pcre2_character(first);
  if (last != first) set.items.append("-").append(pcre2_character(last));
}

CharacterSet PatternReader::posix_bracket() {
  const std::size_t before = at_;
  at_ += 2;
  const bool negated = take(U"^");
  std::string name;
  while (lower(peek()) >= U'a' && lower(peek()) <= U'z') name += static_cast<char>(next());
  const auto set = posix_set(name);
  if (!set || !take(U":]")) {
    at_ = before;
    refuse("the bracket [:" + name.substr(0, 40));
  }
  return negated ? complement(*set) : *set;
}

}  // namespace tessera
