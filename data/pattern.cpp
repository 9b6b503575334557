#include "data/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/error.h"

namespace tessera {

struct Pattern::State {
  pcre2_code* code = nullptr;
  pcre2_match_data* data = nullptr;
  std::string expression, origin;
  ~State() {
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
};

Pattern::Pattern(const std::string& expression, const std::string& origin)
    : state_(std::make_unique<State>()) {
  state_->expression = expression;
  state_->origin = origin;
  int error = 0;
  std::size_t offset = 0;
  state_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), 0, &error,
                               &offset, nullptr);
  if (state_->code == nullptr) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof text);
    fail_usage("{}: '{}' is no regular expression: {} at character {}", origin, expression,
               reinterpret_cast<const char*>(text), offset + 1);
  }
  pcre2_jit_compile(state_->code, PCRE2_JIT_COMPLETE);
  state_->data = pcre2_match_data_create_from_pattern(state_->code, nullptr);
}
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

bool Pattern::matches(std::string_view line) const {
  const int result = pcre2_match(state_->code, reinterpret_cast<PCRE2_SPTR>(line.data()), line.size(), 0, 0,
                                 state_->data, nullptr);
  if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return result >= 0;
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(result, text, sizeof text);
  fail_usage("{}: '{}' gives up on a line of {} bytes: {}", state_->origin, state_->expression, line.size(),
             reinterpret_cast<const char*>(text));
}

}  // namespace tessera
