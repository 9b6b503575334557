// Cuts text into the pieces within which BPE merges: a sequence of regular-expression splits.
//
// Patterns run in PCRE2's JIT with limits; tokenizer.json's dialect (Oniguruma) and PCRE2 agree on the
// constructs that known tokenizers use. Immutable after construction; any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class Split {
 public:
  // Throws Error naming `origin` where the pattern does not compile.
  Split(const std::string& pattern, const std::string& origin);
  ~Split();
  Split(Split&&) noexcept;
  Split& operator=(Split&&) noexcept;

  // Appends the pieces of `text`: matches, and what lies between them ("Isolated").
  void apply(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// GPT-2's pattern, which a ByteLevel pre-tokenizer with use_regex implies.
extern const char* const gpt2_pattern;
// Llama 3's, with which new tokenizers are trained.
extern const char* const llama3_pattern;

}  // namespace tessera
