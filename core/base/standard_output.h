// Standard output: results, on stdio's stdout, and what becomes of them where they cannot be written.
//
// A verb may print with stdio too: main() calls finish(), which tells of anything that was lost. What is
// long, or goes on for long, is written here, so that the work ends when nobody gets it. Errors are Error
// with exit code failure, or reader_gone where the reader of a pipe has gone (`| head`), which
// main() does not print. Any thread.
#pragma once

#include <fmt/core.h>

#include <string_view>

#include "core/base/error.h"

namespace tessera::standard_output {

inline constexpr auto reader_gone = static_cast<ExitCode>(141);  // as shells show it

// For the start of a program: descriptors 0 to 2 that are closed are opened so that no other file takes their
// numbers, and reads and writes there fail; a pipe without a reader is an error, not a signal.
void prepare();

void write(std::string_view text);  // buffered, as stdio does

template <class... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write(fmt::format(format, std::forward<Args>(args)...));
}

void flush();   // throws also if a write before failed
void finish();  // flushes and closes: nothing is written afterwards

}  // namespace tessera::standard_output
