// Errors that a user sees, and the exit codes of the program.
//
// A user's mistake (a file, a config, a command line) throws Error with one line: what is wrong, where, and
// what to do. Only main() catches it, prints the line and ends the process. A programmer's mistake asserts.
// Everything here is a value; all of it may be used from any thread.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace tessera {

// Exit codes of the process, as documented in README.md.
enum class ExitCode : int {
  ok = 0,
  failure = 1,
  usage = 2,             // command line or config
  numbers_suspect = 16,  // non-finite loss, rows of experts without room: resume to decide
  requeue = 75,          // saved on request, run me again
  watchdog = 124,
};

// `text` with control characters written as \n, \t or \x1b: names in files may hold anything, and a message
// is one line that a terminal shows as it is.
std::string one_line(std::string_view text);

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::failure)
      : std::runtime_error(one_line(message)), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Throws Error with exit code `failure`: a bad file, a full disk, a peer that died.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error with exit code `usage`: a mistake in a config or on the command line.
template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...), ExitCode::usage);
}

// " (strerror text)" of an errno value, without the parentheses.
std::string errno_text(int error_number);

// Levenshtein distance, in bytes.
std::size_t edit_distance(std::string_view a, std::string_view b);

// "; did you mean 'x'?" for the candidate nearest to `word`, or "" where none is a likely typo.
template <class Range>
std::string did_you_mean(const std::string& word, const Range& candidates) {
  std::string best;
  std::size_t best_distance = word.size() / 3 + 1;
  for (const auto& candidate : candidates) {
    const std::string_view text(candidate);
    if (const std::size_t d = edit_distance(word, text);
        d <= best_distance && (best.empty() || d < best_distance)) {
      best = text;
      best_distance = d;
    }
  }
  return best.empty() ? "" : fmt::format("; did you mean '{}'?", best);
}

}  // namespace tessera
