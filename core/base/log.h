// Messages to the person who runs the program, on standard error; results and progress go to standard output.
//
// Any thread. `info` prints on rank 0 only; `warn` and `error` print on every rank, with the rank's name
// where there are several. The label is per thread, so that thread ranks of one process are told apart.
#pragma once

#include <fmt/core.h>

#include <string>

namespace tessera::log {

void write_info(const std::string& message);
void write_warning(const std::string& message);
void write_error(const std::string& message);

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write_info(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write_warning(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write_error(fmt::format(format, std::forward<Args>(args)...));
}

// Names the calling thread's rank for the scope's life.
class RankScope {
 public:
  RankScope(int rank, int size);
  ~RankScope();
  RankScope(const RankScope&) = delete;
  RankScope& operator=(const RankScope&) = delete;
};

}  // namespace tessera::log
