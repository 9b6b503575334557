// The watcher of ranks: a thread that does no work, and so does not hang with those that do.
//
// It looks at Activities, of this process's ranks and of those whose memory it shares, and judges:
// - a rank that works or uses storage, and has not got on for its patience, is behind;
// - a rank of another process whose watcher shows no sign of life is behind too: stopped, or gone;
// - ranks that wait are behind nobody; where all wait, and for longer than their patience, nobody will come.
// A rank is judged by its own process first, by others a little later. Who waits for ranks out of sight
// waits longer (unseen_patience), unless they are known to wait too: those are judged where they are.
//
// Time in which the watcher itself did not run (a stopped machine) does not count.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/activity.h"

namespace tessera {

inline constexpr double unseen_patience = 1800;  // seconds, with ranks out of sight

struct WatchedRank {
  int rank = 0;
  Activity* activity = nullptr;
  bool here = true;  // a rank of this process
};

struct Standstill {
  int rank = 0;      // the one that is behind, or the first that waits in vain
  std::string text;  // one line: who is behind, and where all that can be seen stand
};

class Watch {
 public:
  // `ranks` outlive the watch; `job_ranks`: how many there are in all. `on_standstill` is called once, on the
  // watcher's thread, by whichever watch that shares `spoken` comes first. `others_wait`: whether all ranks
  // out of sight are known to wait too.
  Watch(std::vector<WatchedRank> ranks, int job_ranks, std::atomic<std::uint32_t>& spoken,
        std::function<void(const Standstill&)> on_standstill, std::function<bool()> others_wait = {});
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  struct Seen {
    std::uint64_t progress = 0, beats = 0;
    double idle = 0, silent = 0;  // seconds since either changed
  };
  void run();
  void look(double seconds);
  double pause() const;
  bool is_behind(std::size_t i) const;
  bool is_silent(std::size_t i) const;
  std::optional<Standstill> judge() const;
  std::string standing(std::size_t i) const;
  Standstill standstill(const std::vector<std::size_t>& behind) const;

  const std::vector<WatchedRank> ranks_;
  const int job_ranks_;
  std::atomic<std::uint32_t>& spoken_;
  const std::function<void(const Standstill&)> on_standstill_;
  const std::function<bool()> others_wait_;
  std::vector<Seen> seen_;  // the watcher's own
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

// Starts a thread on which no signal is ever delivered.
std::thread start_quiet_thread(std::function<void()> body);

// What is done when a process is ended by force, without its destructors: what others would find in their
// way. Registered while one lives, and for good where an exception ends it: others may then have to be ended
// by force. Any thread.
class LastWill {
 public:
  explicit LastWill(std::function<void()> will);
  ~LastWill();
  LastWill(const LastWill&) = delete;
  LastWill& operator=(const LastWill&) = delete;

 private:
  std::uint64_t id_;
  int exceptions_ = std::uncaught_exceptions();
};

// Says `message` as an error of this rank, where it is not empty, and does what wills ask, for at most five
// seconds: a disk may hang. To be followed by the end of the process.
void say_and_leave_in_order(const std::string& message, int rank = 0, int ranks = 1);

}  // namespace tessera
