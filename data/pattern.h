// A user's regular expression, tested against lines. Immutable after construction; one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace tessera {

class Pattern {
 public:
  // Throws Error (usage) beginning with `origin` if it does not compile.
  Pattern(const std::string& expression, const std::string& origin);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  // Anywhere in the line; bytes, not characters. Throws Error (usage) where the expression backtracks without
  // end.
  bool matches(std::string_view line) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
