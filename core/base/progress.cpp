#include "core/base/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace tessera {

using Clock = std::chrono::steady_clock;

Progress::Progress(std::string what, double total, std::string unit, double unit_size)
    : what_(std::move(what)),
      total_(total),
      unit_(std::move(unit)),
      unit_size_(unit_size),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  draw(true);
}

void Progress::advance(double amount) {
  const std::lock_guard lock(mutex_);
  done_ += amount;
  const auto now = Clock::now();
  if (now - drawn_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(10000))) return;
  drawn_ = now;
  draw(false);
}

void Progress::draw(bool last) {
  const double seconds = std::max(1e-3, std::chrono::duration<double>(Clock::now() - start_).count());
  const double rate = done_ / seconds;
  const int digits = unit_size_ > 1 ? 1 : 0;  // things that are counted are whole
  std::string line = what_;
  if (total_ > 0)
    line += fmt::format("  {:3.0f}%  {:.{}f}/{:.{}f} {}", 100 * std::min(1.0, done_ / total_),
                        done_ / unit_size_, digits, total_ / unit_size_, digits, unit_);
  else
    line += fmt::format("  {:.{}f} {}", done_ / unit_size_, digits, unit_);
  line += fmt::format("  {:.{}f} {}/s", rate / unit_size_, digits, unit_);
  line += last                     ? fmt::format("  in {}", duration_text(seconds))
          : total_ > 0 && rate > 0 ? fmt::format("  eta {}", duration_text((total_ - done_) / rate))
                                   : std::string();
  if (terminal_)
    std::fprintf(stderr, "\r\033[K%s%s", line.c_str(), last ? "\n" : "");
  else
    std::fprintf(stderr, "%s\n", line.c_str());
}

std::string duration_text(double seconds) {
  const auto s = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) bytes /= 1024, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, units[unit]);
}

}  // namespace tessera
