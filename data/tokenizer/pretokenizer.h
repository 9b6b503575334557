// Cuts text into the pieces within which BPE merges: a sequence of splits, each on the pieces of the one
// before.
//
// Matches and pieces are those of the Python package tokenizers, empty matches included; patterns run in
// PCRE2's JIT with limits. Immutable after construction; any thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// What becomes of a match: a piece of its own, nothing, the end of the piece before or the beginning of the
// one behind; contiguous matches are one piece.
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

class Split {
 public:
  // `pattern` is Oniguruma's. Throws Error naming `origin` where it does not compile, or has what cannot be
  // said in PCRE2. `invert`: what lies between the matches is taken for the matches.
  Split(const std::string& pattern, const std::string& origin,
        SplitBehavior behavior = SplitBehavior::isolated, bool invert = false);
  // At a text as it stands.
  static Split at_text(const std::string& text, const std::string& origin, SplitBehavior behavior,
                       bool invert);
  // At numbers, as a pre-tokenizer Digits: each character for itself, or together.
  static Split at_digits(bool individual);
  ~Split();
  Split(Split&&) noexcept;
  Split& operator=(Split&&) noexcept;

  // Appends the pieces of `text`, none of them empty.
  void apply(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct State;
  explicit Split(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class PreTokenizer {
 public:
  void add(Split split);
  // From here on, pieces that do not begin with a space get one.
  void add_space_before();

  // The pieces of `text`, in the thread's own memory: valid until the next call of the thread.
  const std::vector<std::string_view>& pieces(std::string_view text) const;

 private:
  std::vector<Split> before_, after_;  // the space
  bool space_ = false;
};

// GPT-2's pattern, which a ByteLevel pre-tokenizer with use_regex implies.
extern const char* const gpt2_pattern;
// Llama 3's, with which new tokenizers are trained.
extern const char* const llama3_pattern;

}  // namespace tessera
