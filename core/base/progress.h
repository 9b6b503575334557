// A progress line for long work: "tokenizing  41% 16.4/40.0 MB  12.3 MB/s  eta 0:02".
//
// On a terminal the line is redrawn in place on standard error a few times a second; piped, it is one plain
// line every ten seconds and one at the end. `advance` may be called from several threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace tessera {

class Progress {
 public:
  // `total` of 0 means unknown. `unit_size` divides counts for display: {"MB", 1e6}.
  Progress(std::string what, double total, std::string unit, double unit_size = 1);
  ~Progress();  // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void advance(double amount);

 private:
  void draw(bool last);
  std::string what_;
  double total_;
  std::string unit_;
  double unit_size_;
  bool terminal_;
  std::mutex mutex_;
  double done_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
};

// "1:02:03" or "2:03".
std::string duration_text(double seconds);
// "1.23 GiB".
std::string bytes_text(double bytes);

}  // namespace tessera
