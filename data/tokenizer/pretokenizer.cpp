#include "data/tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "core/base/error.h"

namespace tessera {

const char* const gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr std::uint32_t match_limit = 100'000'000;
constexpr std::uint32_t heap_limit_kib = 1 << 18;

// Unicode's White_Space as a class body: PCRE2's \s also takes U+180E, which has not been a space since
// Unicode 6.3.
constexpr std::string_view spaces =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Replaces \s and \S by explicit classes, inside classes and out.
std::string with_exact_spaces(const std::string& pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's')
        out += in_class ? std::string(spaces) : "[" + std::string(spaces) + "]";
      else if (escaped == 'S' && !in_class)
        out += "[^" + std::string(spaces) + "]";
      else
        (out += c) += escaped;
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

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
  std::string pattern;
  ~State() { pcre2_code_free(code); }
};

Split::Split(const std::string& pattern, const std::string& origin) : state_(std::make_unique<State>()) {
  if (pattern.size() > (1 << 16))
    fail("{}: a pre-tokenizer's pattern has {} bytes; at most 65536 are taken", origin, pattern.size());
  if (pattern.find("&&") != std::string::npos)
    fail("{}: the pre-tokenizer's pattern uses class intersection (&&), which this version does not read",
         origin);
  state_->pattern = pattern;
  const std::string exact = with_exact_spaces(pattern);
  int error = 0;
  std::size_t offset = 0;
  state_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(exact.data()), exact.size(),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (state_->code == nullptr)
    fail("{}: the pre-tokenizer's pattern does not compile: {}: {}", origin, pcre2_message(error),
         pattern.substr(0, 200));
  pcre2_jit_compile(state_->code,
                    PCRE2_JIT_COMPLETE);  // without a JIT the interpreter gives the same matches
}

Split::~Split() = default;
Split::Split(Split&&) noexcept = default;
Split& Split::operator=(Split&&) noexcept = default;

void Split::apply(std::string_view text, std::vector<std::string_view>& pieces) const {
  thread_local Scratch scratch;
  std::size_t at = 0;
  std::size_t end_of_last = 0;
  while (at < text.size()) {
    const int found = pcre2_match(state_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0)
      fail("the pre-tokenizer gives up on a text of {} bytes: {}", text.size(), pcre2_message(found));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(scratch.data);
    if (span[1] == span[0]) {  // an empty match moves on by one character
      at = span[1] + 1;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0U) == 0x80U) ++at;
      continue;
    }
    if (span[0] > end_of_last) pieces.push_back(text.substr(end_of_last, span[0] - end_of_last));
    pieces.push_back(text.substr(span[0], span[1] - span[0]));
    at = end_of_last = span[1];
  }
  if (end_of_last < text.size()) pieces.push_back(text.substr(end_of_last));
}

}  // namespace tessera
