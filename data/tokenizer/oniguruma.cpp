// Read against Oniguruma's documentation (doc/RE, doc/UNICODE_PROPERTIES) and its default syntax.
#include "data/tokenizer/oniguruma.h"

#include <optional>

#include "core/base/error.h"
#include "data/tokenizer/pattern_reader.h"

namespace tessera {
namespace {

constexpr int deepest = 200;
constexpr int most_repeats = 65535;  // PCRE2's limit

constexpr const char* word_boundary = R"((?:(?<={0})(?!{0})|(?<!{0})(?={0})))";
constexpr const char* no_word_boundary = R"((?:(?<={0})(?={0})|(?<!{0})(?!{0})))";

struct Options {
  bool ignore_case = false;  // i
  bool dot_all = false;      // m
  bool extended = false;     // x
};

// A translated part of a pattern.
struct Part {
  std::string text;
  bool nullable = false;    // may match nothing
  bool repeatable = true;   // may be the target of a repeat
  bool lazy_alone = false;  // nothing but one lazily repeated part
};

class Translator : PatternReader {
 public:
  using PatternReader::PatternReader;

  std::string run() {
    const Part whole = alternatives(0);
    if (!done()) refuse("a ) without its (");
    return whole.text;
  }

 private:
  // Comments, and what the option x leaves out.
  void skip_blanks() {
    while (!done()) {
      if (looking_at(U"(?#")) {
        while (next() != U')')
          if (source_[at_ - 1] == U'\\') next();
      } else if (options_.extended && (peek() == U' ' || (peek() >= 9 && peek() <= 13 && peek() != 11))) {
        ++at_;
      } else if (options_.extended && peek() == U'#') {
        while (!done() && next() != U'\n') {
        }
      } else {
        return;
      }
    }
  }

  Part alternatives(int depth);
  Part branch(int depth, bool& ended);
  std::optional<Part> options_group(int depth, bool& ended);
  Part group(int depth);
  Part atom(int depth);
  Part escape();
  Part repeated(Part part);
  bool interval(int& low, int& high);
  int number();

  Part literal(char32_t c);
  Part one_of(const CharacterSet& set) { return {set.expression()}; }

  Options options_;
  char32_t letter_before_ = 0;  // the letter that a case-insensitive one would follow
  int lookbehinds_ = 0;
};

Part Translator::alternatives(int depth) {
  if (depth > deepest) refuse("groups nested too deeply");
  Part all;
  bool ended = false;
  for (bool first = true; !ended; first = false) {
    if (!first) {
      if (!take(U"|")) break;
      all.text += '|';
      letter_before_ = 0;
    }
    const Part one = branch(depth, ended);
    all.text += one.text;
    all.nullable = all.nullable || one.nullable;
    all.repeatable = all.repeatable && one.repeatable;
    all.lazy_alone = first && one.lazy_alone;
  }
  return all;
}

Part Translator::branch(int depth, bool& ended) {
  Part all;
  all.nullable = true;
  int parts = 0;
  bool characters = false;
  for (skip_blanks(); !done() && peek() != U'|' && peek() != U')' && !ended; skip_blanks()) {
    std::optional<Part> part = options_group(depth, ended);
    if (!part) part = atom(depth);
    if (!ended) part = repeated(std::move(*part));
    all.text += part->text;
    all.nullable = all.nullable && part->nullable;
    all.lazy_alone = ++parts == 1 && part->lazy_alone;
    characters = characters || part->repeatable;
  }
  all.repeatable = parts == 0 || characters;
  return all;
}

// (?imx-imx:…), and (?imx-imx), which holds for all that follows in the group, other alternatives included.
std::optional<Part> Translator::options_group(int depth, bool& ended) {
  if (!looking_at(U"(?")) return std::nullopt;
  const char32_t kind = peek(2);
  if (kind != U'-' && kind != U'i' && kind != U'm' && kind != U'x') return std::nullopt;
  at_ += 2;
  const Options outer = options_;
  Options inner = options_;
  bool on = true;
  char32_t c = next();
  for (; c != U':' && c != U')'; c = next()) {
    if (c == U'-')
      on = false;
    else if (c == U'i')
      inner.ignore_case = on;
    else if (c == U'm')
      inner.dot_all = on;
    else if (c == U'x')
      inner.extended = on;
    else
      refuse("an unknown option of a group");
  }
  options_ = inner;
  ignore_case_ = inner.ignore_case;
  Part body = alternatives(depth + 1);
  options_ = outer;
  ignore_case_ = outer.ignore_case;
  const char* const open = inner.ignore_case == outer.ignore_case ? "(?:"
                           : inner.ignore_case                    ? "(?i:"
                                                                  : "(?-i:";
  body.text = open + body.text + ")";
  if (c == U':') {
    if (!take(U")")) refuse("a ( without its )");
    return body;
  }
  ended = true;
  body.repeatable = false;
  return body;
}

Part Translator::group(int depth) {
  const auto body = [&](const char* open, bool looks = false) {
    Part part = alternatives(depth + 1);
    if (!take(U")")) refuse("a ( without its )");
    part.text = open + part.text + ")";
    if (looks) part = {part.text, true, false, false};
    return part;
  };
  if (take(U"(?:")) return body("(?:");
  if (take(U"(?=")) return body("(?=", true);
  if (take(U"(?!")) return body("(?!", true);
  if (take(U"(?>")) return body("(?>");
  if (looking_at(U"(?<=") || looking_at(U"(?<!")) {
    const char* const open = peek(3) == U'=' ? "(?<=" : "(?<!";
    at_ += 4;
    ++lookbehinds_;
    Part part = body(open, true);
    --lookbehinds_;
    return part;
  }
  if (lookbehinds_ > 0) refuse("a group inside a look-behind");
  if (looking_at(U"(?<") || looking_at(U"(?'")) {
    const char32_t close = peek(2) == U'<' ? U'>' : U'\'';
    at_ += 3;
    std::size_t length = 0;
    for (char32_t c = next(); c != close; c = next(), ++length)
      if (!(lower(c) >= U'a' && lower(c) <= U'z') && c != U'_' && !(is_digit(c) && length > 0))
        refuse("an unusual name of a group");
    if (length == 0) refuse("a group with an empty name");
    return body("(?:");
  }
  if (looking_at(U"(?~")) refuse("an absent operator (?~");
  if (looking_at(U"(?(")) refuse("a condition (?(");
  if (looking_at(U"(?{") || looking_at(U"(*")) refuse("a callout");
  if (looking_at(U"(?")) refuse("an unknown kind of group");
  take(U"(");
  return body("(?:");
}

Part Translator::atom(int depth) {
  const char32_t c = peek();
  switch (c) {
    case U'(':
      return group(depth);
    case U'[': {
      ++at_;
      letter_before_ = 0;
      const CharacterSet set = class_body(0);
      if (ignore_case_ && set.cased) refuse("letters by property in a class that ignores case");
      return one_of(set);
    }
    case U'\\':
      ++at_;
      return escape();
    case U'.':
      ++at_;
      letter_before_ = 0;
      return {options_.dot_all ? "(?s:.)" : R"([^\x{a}])"};
    case U'^':
      ++at_;
      return {R"((?:\A|(?<=\x{a})(?!\z)))", true, false};
    case U'$':
      ++at_;
      return {R"((?=\x{a}|\z))", true, false};
    case U'*':
    case U'+':
    case U'?':
      refuse("a repeat of nothing");
    case U'{': {
      const std::size_t before = at_;
      int low = 0;
      int high = 0;
      if (interval(low, high)) refuse("a repeat of nothing");
      at_ = before + 1;
      return literal(c);
    }
    default:
      ++at_;
      return literal(c);
  }
}

Part Translator::literal(char32_t c) {
  const char32_t letter = lower(c);
  if (ignore_case_) {
    if (folds_beyond_ascii(c)) refuse("a letter beyond ASCII where case is ignored");
    // Folds of one character to several: ß is ss, ﬁ is fi, ﬅ is st.
    const char32_t b = letter_before_;
    if ((b == U's' && (letter == U's' || letter == U't')) ||
        (b == U'f' && (letter == U'f' || letter == U'i' || letter == U'l')))
      refuse("letters that are one character in another case (ß, ﬁ)");
  }
  letter_before_ = letter;
  return {pcre2_character(c)};
}

Part Translator::escape() {
  const char32_t c = peek();
  const char32_t before = letter_before_;
  letter_before_ = 0;
  if (const auto set = shorthand(c, false)) {
    ++at_;
    return one_of(*set);
  }
  const std::string word = word_set(false).expression();
  switch (c) {
    case U'p':
    case U'P': {
      ++at_;
      // Outside classes case is not ignored for it.
      const std::string text = property(c == U'P').expression();
      return {ignore_case_ ? "(?-i:" + text + ")" : text};
    }
    case U'A':
      ++at_;
      return {R"(\A)", true, false};
    case U'Z':
      ++at_;
      return {R"((?=\x{a}?\z))", true, false};
    case U'z':
      ++at_;
      return {R"(\z)", true, false};
    case U'b':
      ++at_;
      return {fmt::format(fmt::runtime(word_boundary), word), true, false};
    case U'B':
      ++at_;
      return {fmt::format(fmt::runtime(no_word_boundary), word), true, false};
    case U'R':
      ++at_;
      return {R"((?>\x{d}\x{a}|[\x{a}-\x{d}\x{85}\x{2028}\x{2029}]))"};
    case U'N':
      ++at_;
      return {R"([^\x{a}])"};
    case U'O':
      ++at_;
      return {"(?s:.)"};
    case U'k':
      refuse("a back-reference \\k");
    case U'g':
      refuse("a call of a group \\g");
    case U'K':
      refuse("\\K");
    case U'G':
      refuse("\\G");
    case U'X':
    case U'y':
    case U'Y':
      refuse("a text segment (\\X, \\y, \\Y)");
    default:
      break;
  }
  letter_before_ = before;
  const auto character = escaped_character(false);
  if (!character) refuse("an unknown escape");
  return literal(*character);
}

int Translator::number() {
  int value = 0;
  while (is_digit(peek()) && !done()) {
    value = value * 10 + static_cast<int>(next() - U'0');
    if (value > most_repeats) refuse("more than 65535 repeats");
  }
  return value;
}

// {low,high}, {low,}, {,high} or {low}; false, and nothing taken that counts, if the brace is a plain one.
bool Translator::interval(int& low, int& high) {
  if (!take(U"{")) return false;
  const bool has_low = is_digit(peek());
  low = has_low ? number() : 0;
  if (take(U",")) {
    const bool has_high = is_digit(peek());
    if (!has_low && !has_high) return false;
    high = has_high ? number() : -1;
  } else {
    if (!has_low) return false;
    high = low;
  }
  if (!take(U"}")) return false;
  if (high >= 0 && low > high) refuse("a repeat whose limits are swapped");
  return true;
}

Part Translator::repeated(Part part) {
  for (bool again = false;; again = true) {
    skip_blanks();
    const std::size_t before = at_;
    int low = 0;
    int high = -1;
    const char32_t sign = peek();
    bool braces = false;
    if (done()) return part;
    if (sign == U'*' || sign == U'+' || sign == U'?') {
      ++at_;
      low = sign == U'+' ? 1 : 0;
      high = sign == U'?' ? 1 : -1;
    } else if (braces = interval(low, high); !braces) {
      at_ = before;
      return part;
    }
    if (!part.repeatable) refuse("a repeat of what takes no character");
    if (part.lazy_alone) refuse("a repeat of a lazy repeat");
    if (part.nullable && high < 0) refuse("an endless repeat of what may be empty");
    if (ignore_case_ && high != 1 && (letter_before_ == U's' || letter_before_ == U'f'))
      refuse("a repeated s or f where case is ignored (ß, ﬀ)");
    std::string text = again ? "(?:" + part.text + ")" : part.text;
    text += !braces    ? std::string(1, static_cast<char>(sign))
            : high < 0 ? fmt::format("{{{},}}", low)
                       : fmt::format("{{{},{}}}", low, high);
    // Behind {n} a ? is a repeat of its own, and so is a + behind any brace.
    const bool fixed =
        braces && low == high && source_[at_ - 1] == U'}' &&
        std::u32string_view(source_).substr(before, at_ - before).find(U',') == std::u32string_view::npos;
    const bool lazy = !fixed && take(U"?");
    const bool possessive = !lazy && !braces && take(U"+");
    text += lazy ? "?" : possessive ? "+" : "";
    part = {std::move(text), part.nullable || low == 0, true, lazy};
    if (braces && !lazy) continue;
    skip_blanks();
    if (peek() == U'*' || peek() == U'+' || peek() == U'?') refuse("a repeat of a repeat");
    return part;
  }
}

}  // namespace

std::string pcre2_from_oniguruma(const std::string& pattern, const std::string& origin) {
  return Translator(pattern, origin).run();
}

std::string pcre2_literal(const std::string& text) {
  std::string out;
  for (const char32_t c : code_points(text)) out += pcre2_character(c);
  return out;
}

}  // namespace tessera
