// What a rank is doing, and whether it gets on: told by those who do the work, looked at by a Watch
// (core/base/watch.h).
//
// An Activity is plain atomics: it may lie in memory that processes share, and telling costs a few stores.
// One thread tells, the rank's own; the functions below tell for it, and do nothing on other threads. Any
// thread or process may look.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

// Told apart because each may take its own time: a disk more than arithmetic, and who waits for others is
// not the one who is behind.
enum class Doing : std::uint32_t { works, uses_storage, waits, ended };

// Text of one writer, which others may read while it is written. Cut to what fits.
class SharedText {
 public:
  void set(std::string_view text);
  std::string get() const;

 private:
  static constexpr std::size_t words = 32;
  std::atomic<std::uint64_t> version_{0};  // odd while it is written
  std::array<std::atomic<std::uint64_t>, words> words_{};
};

class Activity {
 public:
  // Something ended: a loop, a collective, a piece of a file.
  void note_progress() noexcept {
    count_.store(count_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  std::uint64_t progress() const { return count_.load(std::memory_order_relaxed); }

  // What the rank is about, for people: "step 7", "save of step 3".
  void set_position(std::string_view text);
  std::string position() const { return position_.get(); }
  // What it does there, in detail: "fsync of 'a.h5'", "barrier"; "" for work.
  void set_doing(Doing doing, std::string_view what);
  Doing doing() const { return doing_.load(std::memory_order_relaxed); }
  std::string what() const { return what_.get(); }

  // Seconds without progress after which the rank counts as hanging: while it works, and while it uses
  // storage, of which one call may take long.
  void set_patience(double seconds, double storage_seconds);
  double patience() const;  // for what it does now; of one who waits, as for work

  // Told by its process's Watch: that the process is alive.
  void beat() noexcept { beats_.fetch_add(1, std::memory_order_relaxed); }
  std::uint64_t beats() const { return beats_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> count_{0}, beats_{0};
  std::atomic<Doing> doing_{Doing::works};
  std::atomic<double> patience_{1800}, storage_patience_{1800};
  SharedText position_, what_;
};

// Seconds of patience that TESSERA_TIMEOUT asks for, or nothing (0).
double timeout_of_environment();
// Storage may take so many times the patience with work, unless told otherwise.
inline constexpr double storage_factor = 10;

// The activity that this thread tells of; null: none.
extern constinit thread_local Activity* this_activity;

// While it lives the calling thread tells of `activity`, which has then ended.
class ActivityScope {
 public:
  explicit ActivityScope(Activity& activity) : before_(this_activity) { this_activity = &activity; }
  ~ActivityScope() {
    this_activity->set_doing(Doing::ended, "");
    this_activity = before_;
  }
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  Activity* before_;
};

inline void note_progress() noexcept {
  if (this_activity != nullptr) this_activity->note_progress();
}
inline void set_position(std::string_view text) {
  if (this_activity != nullptr) this_activity->set_position(text);
}
// Waits in `what`, until it says what it is about next.
void tell_waiting(std::string_view what);
// TESSERA_TIMEOUT, where set, overrules it.
void set_patience(double seconds, double storage_seconds);
inline void set_patience(double seconds) {
  set_patience(seconds, storage_factor * seconds);
}

// What the thread does while one lives; then again what it did before.
class DoingScope {
 public:
  DoingScope(Doing doing, std::string_view what);
  // "read of 'path'"
  DoingScope(Doing doing, const char* operation, const std::filesystem::path& path);
  ~DoingScope();
  DoingScope(const DoingScope&) = delete;
  DoingScope& operator=(const DoingScope&) = delete;

 private:
  void begin(Doing doing, std::string_view what);
  Doing before_ = Doing::works;
  std::string what_before_;
};

}  // namespace tessera
