#include "data/tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "core/base/error.h"
#include "data/tokenizer/oniguruma.h"

namespace tessera {

const char* const gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr std::uint32_t match_limit = 100'000'000;
constexpr std::uint32_t heap_limit_kib = 1 << 18;
constexpr std::size_t longest_pattern = 1 << 16;  // bytes

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Match data and stack of one thread.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 64 << 20, nullptr);
  Scratch() {
    pcre2_set_match_limit(context, match_limit);
    pcre2_set_heap_limit(context, heap_limit_kib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace

struct Split::State {
  pcre2_code* code = nullptr;
  std::string pattern;  // as the file has it
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;

  State(std::string given, const std::string& translated, const std::string& origin, SplitBehavior does,
        bool inverted)
      : pattern(std::move(given)), behavior(does), invert(inverted) {
    int error = 0;
    std::size_t offset = 0;
    pcre2_compile_context* const context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (code == nullptr)
      fail("{}: the pre-tokenizer's pattern does not compile: {}: {}", origin, pcre2_message(error),
           pattern.substr(0, 200));
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter gives the same matches
  }
  ~State() { pcre2_code_free(code); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // Calls visit(begin, end, matched) for the matches and what lies between them, which together are the text.
  // An empty match counts, except right behind another match.
  template <class Visit>
  void walk(std::string_view text, Visit visit) const {
    thread_local Scratch scratch;
    const PCRE2_SIZE* const span = pcre2_get_ovector_pointer(scratch.data);
    std::size_t at = 0;
    std::size_t last = 0;
    bool any = false;
    while (at <= text.size()) {
      const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                    PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0)
        fail("the pre-tokenizer gives up on a text of {} bytes: {}", text.size(), pcre2_message(found));
      if (span[0] == span[1] && any && span[1] == last) {
        ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0U) == 0x80U) ++at;
        continue;
      }
      if (span[0] > last) visit(last, span[0], invert);
      visit(span[0], span[1], !invert);
      at = last = span[1];
      any = true;
    }
    if (last < text.size()) visit(last, text.size(), invert);
  }
};

Split::Split(std::unique_ptr<State> state) : state_(std::move(state)) {}

Split::Split(const std::string& pattern, const std::string& origin, SplitBehavior behavior, bool invert) {
  if (pattern.size() > longest_pattern)
    fail("{}: a pre-tokenizer's pattern has {} bytes; at most {} are taken", origin, pattern.size(),
         longest_pattern);
  state_ = std::make_unique<State>(pattern, pcre2_from_oniguruma(pattern, origin), origin, behavior, invert);
}

Split Split::at_text(const std::string& text, const std::string& origin, SplitBehavior behavior,
                     bool invert) {
  if (text.size() > longest_pattern)
    fail("{}: a pre-tokenizer's pattern has {} bytes; at most {} are taken", origin, text.size(),
         longest_pattern);
  return Split(std::make_unique<State>(text, pcre2_literal(text), origin, behavior, invert));
}

Split Split::at_digits(bool individual) {
  return Split(individual ? R"(\p{N})" : R"(\p{N}+)", "the pre-tokenizer Digits");
}

Split::~Split() = default;
Split::Split(Split&&) noexcept = default;
Split& Split::operator=(Split&&) noexcept = default;

void Split::apply(std::string_view text, std::vector<std::string_view>& pieces) const {
  const auto piece = [&](std::size_t begin, std::size_t end) {
    if (begin < end) pieces.push_back(text.substr(begin, end - begin));
  };
  // The piece that is growing, and whether a match came last.
  std::size_t begin = 0;
  std::size_t end = 0;
  bool after_match = false;
  bool first = true;
  switch (state_->behavior) {
    case SplitBehavior::isolated:
      state_->walk(text, [&](std::size_t from, std::size_t to, bool) { piece(from, to); });
      return;
    case SplitBehavior::removed:
      state_->walk(text, [&](std::size_t from, std::size_t to, bool matched) {
        if (!matched) piece(from, to);
      });
      return;
    case SplitBehavior::contiguous:
    case SplitBehavior::merged_with_previous:
      state_->walk(text, [&](std::size_t from, std::size_t to, bool matched) {
        const bool grows =
            state_->behavior == SplitBehavior::contiguous ? matched == after_match : matched && !after_match;
        if (!grows || first) {
          piece(begin, end);
          begin = from;
        }
        end = to;
        after_match = matched;
        first = false;
      });
      piece(begin, end);
      return;
    case SplitBehavior::merged_with_next: {
      // From the end: a match joins what stands behind it, unless that is a match too.
      struct Part {
        std::size_t begin, end;
        bool matched;
      };
      std::vector<Part> parts;
      state_->walk(text, [&](std::size_t from, std::size_t to, bool matched) {
        if (!parts.empty() && parts.back().matched && !matched)
          parts.back().end = to;
        else
          parts.push_back({from, to, false});
        parts.back().matched = matched;
      });
      for (const Part& part : parts) piece(part.begin, part.end);
      return;
    }
  }
}

void PreTokenizer::add(Split split) {
  (space_ ? after_ : before_).push_back(std::move(split));
}

void PreTokenizer::add_space_before() {
  space_ = true;
}

const std::vector<std::string_view>& PreTokenizer::pieces(std::string_view text) const {
  thread_local std::vector<std::string_view> pieces;
  thread_local std::vector<std::string_view> next;
  thread_local std::deque<std::string> spaced;
  const auto apply = [&](const std::vector<Split>& splits) {
    for (const Split& split : splits) {
      next.clear();
      for (const std::string_view piece : pieces) split.apply(piece, next);
      pieces.swap(next);
    }
  };
  pieces.assign(text.empty() ? 0 : 1, text);
  apply(before_);
  if (space_) {
    spaced.clear();
    for (std::string_view& piece : pieces)
      if (!piece.starts_with(' ')) piece = spaced.emplace_back(1, ' ').append(piece);
  }
  apply(after_);
  return pieces;
}

}  // namespace tessera
