#include "data/tokenizer/character_set.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cctype>

namespace tessera {
namespace {

// PCRE2's own \s also takes U+180E, which has not been a space since Unicode 6.3.
constexpr const char* spaces =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr const char* hex_digits = "0-9A-Fa-f";
constexpr const char* any_character = "(?s:.)";

// Letters, marks, digits, connectors, and symbols that are letters (circled, squared).
constexpr const char* word = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149})"
                             R"(\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

struct Property {
  const char* names;  // lower case, without spaces, hyphens and underscores
  const char* items;
  bool cased;
};

// General categories, and the classes that POSIX brackets and properties share.
constexpr Property properties[] = {
    {"l letter", R"(\p{L})", true},
    {"lc casedletter", R"(\p{Lu}\p{Ll}\p{Lt})", true},
    {"lu uppercaseletter", R"(\p{Lu})", true},
    {"ll lowercaseletter", R"(\p{Ll})", true},
    {"lt titlecaseletter", R"(\p{Lt})", true},
    {"lm modifierletter", R"(\p{Lm})", true},
    {"lo otherletter", R"(\p{Lo})", true},
    {"m mark combiningmark", R"(\p{M})", true},
    {"mn nonspacingmark", R"(\p{Mn})", true},
    {"mc spacingmark", R"(\p{Mc})", true},
    {"me enclosingmark", R"(\p{Me})", true},
    {"n number", R"(\p{N})", false},
    {"nd decimalnumber digit", R"(\p{Nd})", false},
    {"nl letternumber", R"(\p{Nl})", false},
    {"no othernumber", R"(\p{No})", false},
    {"p punctuation punct", R"(\p{P})", false},
    {"pc connectorpunctuation", R"(\p{Pc})", false},
    {"pd dashpunctuation", R"(\p{Pd})", false},
    {"ps openpunctuation", R"(\p{Ps})", false},
    {"pe closepunctuation", R"(\p{Pe})", false},
    {"pi initialpunctuation", R"(\p{Pi})", false},
    {"pf finalpunctuation", R"(\p{Pf})", false},
    {"po otherpunctuation", R"(\p{Po})", false},
    {"s symbol", R"(\p{S})", false},
    {"sm mathsymbol", R"(\p{Sm})", false},
    {"sc currencysymbol", R"(\p{Sc})", false},
    {"sk modifiersymbol", R"(\p{Sk})", false},
    {"so othersymbol", R"(\p{So})", false},
    {"z separator", R"(\p{Z})", false},
    {"zs spaceseparator", R"(\p{Zs})", false},
    {"zl lineseparator", R"(\p{Zl})", false},
    {"zp paragraphseparator", R"(\p{Zp})", false},
    {"cc control cntrl", R"(\p{Cc})", false},
    {"cf format", R"(\p{Cf})", false},
    {"co privateuse", R"(\p{Co})", false},
    {"any", R"(\x{0}-\x{10ffff})", true},
    {"ascii", R"(\x00-\x7f)", false},
    {"space whitespace", spaces, false},
    {"xdigit", hex_digits, false},
    {"blank", R"(\x09\p{Zs})", false},
    {"upper uppercase", R"(\p{Uppercase})", true},
    {"c other", R"(\p{C})", false},
    {"cn unassigned", R"(\p{Cn})", false},
};

// PCRE2 reads \p{Han} as the script's extensions too, Oniguruma as the script alone.
constexpr const char* scripts[] = {
    "Arabic",   "Armenian", "Bengali",  "Bopomofo", "Cyrillic",  "Devanagari", "Ethiopic", "Georgian",
    "Greek",    "Gujarati", "Gurmukhi", "Han",      "Hangul",    "Hebrew",     "Hiragana", "Kannada",
    "Katakana", "Khmer",    "Lao",      "Latin",    "Malayalam", "Mongolian",  "Myanmar",  "Oriya",
    "Sinhala",  "Tamil",    "Telugu",   "Thai",     "Tibetan",
};

std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != ' ' && c != '-' && c != '_')
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool has_word(std::string_view words, std::string_view wanted) {
  for (std::size_t at = 0; at <= words.size();) {
    const std::size_t end = std::min(words.find(' ', at), words.size());
    if (words.substr(at, end - at) == wanted) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

void CharacterSet::add(const CharacterSet& other) {
  items += other.items;
  expressions.insert(expressions.end(), other.expressions.begin(), other.expressions.end());
  cased = cased || other.cased;
}

std::string CharacterSet::expression(bool negated) const {
  if (expressions.empty()) {
    if (items.empty()) return negated ? any_character : "(?:(?!))";
    return (negated ? "[^" : "[") + items + "]";
  }
  // All alternatives match one character, so that the first that matches may be kept.
  std::string any = items.empty() ? "" : "[" + items + "]";
  for (const std::string& expression : expressions) any += (any.empty() ? "" : "|") + expression;
  return negated ? fmt::format("(?:(?!{}){})", any, any_character) : "(?>" + any + ")";
}

CharacterSet complement(const CharacterSet& set) {
  return {"", {set.expression(true)}, set.cased};
}

CharacterSet intersection(const CharacterSet& a, const CharacterSet& b) {
  return {"", {fmt::format("(?:(?={}){})", a.expression(), b.expression())}, a.cased || b.cased};
}

std::optional<CharacterSet> property_set(std::string_view name) {
  const std::string plain = plain_name(name);
  if (plain.empty()) return std::nullopt;
  for (const Property& property : properties)
    if (has_word(property.names, plain)) return CharacterSet{property.items, {}, property.cased};
  for (const char* script : scripts)
    if (plain == plain_name(script)) return CharacterSet{fmt::format("\\p{{sc:{}}}", script), {}, true};
  return std::nullopt;
}

CharacterSet space_set() {
  return {spaces, {}, false};
}
CharacterSet word_set(bool in_class) {
  CharacterSet set{word, {}, true};
  if (!in_class) set.items += R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
  return set;
}
std::optional<CharacterSet> posix_set(std::string_view name) {
  if (name == "punct") return CharacterSet{R"(\p{P}\p{S})", {}, false};
  if (name == "word") return word_set(true);
  constexpr std::string_view known = " ascii blank cntrl digit space upper xdigit ";
  return has_word(known, name) ? property_set(name) : std::nullopt;
}
CharacterSet digit_set() {
  return *property_set("nd");
}
CharacterSet hex_set() {
  return {hex_digits, {}, false};
}

std::string pcre2_character(char32_t character) {
  if (character >= 0x80 || character < 0x20 || character == 0x7f)
    return fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(character));
  const char c = static_cast<char>(character);
  return std::isalnum(static_cast<unsigned char>(c)) != 0 ? std::string(1, c) : std::string("\\") + c;
}

bool folds_beyond_ascii(char32_t character) {
  if (character < 0x80) return false;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_SO:
    case UTF8PROC_CATEGORY_CN:
      return true;
    default:
      return false;
  }
}

}  // namespace tessera
