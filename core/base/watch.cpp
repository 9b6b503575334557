#include "core/base/watch.h"

#include <fmt/core.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <memory>

#include "core/base/log.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double grace = 3;             // seconds that a rank's own process has to speak for it first
constexpr double least_silence = 5;     // seconds: a busy machine may hold a watcher up
constexpr std::size_t most_named = 16;  // ranks told of in a line

}  // namespace

std::thread start_quiet_thread(std::function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

Watch::Watch(std::vector<WatchedRank> ranks, int job_ranks, std::atomic<std::uint32_t>& spoken,
             std::function<void(const Standstill&)> on_standstill, std::function<bool()> others_wait)
    : ranks_(std::move(ranks)),
      job_ranks_(job_ranks),
      spoken_(spoken),
      on_standstill_(std::move(on_standstill)),
      others_wait_(std::move(others_wait)),
      seen_(ranks_.size()) {
  thread_ = start_quiet_thread([this] { run(); });
}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void Watch::run() {
  auto before = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, std::chrono::duration<double>(pause()), [this] { return stopping_; })) {
    const auto now = Clock::now();
    look(std::min(1.0, std::chrono::duration<double>(now - before).count()));
    before = now;
    const std::optional<Standstill> found = judge();
    if (!found || spoken_.exchange(1) != 0) continue;
    lock.unlock();
    on_standstill_(*found);
    return;
  }
}

// Between looks: short beside the shortest patience.
double Watch::pause() const {
  double shortest = 5;
  for (const WatchedRank& one : ranks_)
    if (one.here) shortest = std::min(shortest, one.activity->patience());
  return std::clamp(shortest / 20, 0.005, 0.25);
}

void Watch::look(double seconds) {
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const auto& [rank, activity, here] = ranks_[i];
    if (here) activity->beat();
    Seen& seen = seen_[i];
    const std::uint64_t progress = activity->progress();
    const std::uint64_t beats = activity->beats();
    seen.idle = progress == seen.progress ? seen.idle + seconds : 0;
    seen.silent = beats == seen.beats ? seen.silent + seconds : 0;
    seen.progress = progress;
    seen.beats = beats;
  }
}

bool Watch::is_silent(std::size_t i) const {
  const auto& [rank, activity, here] = ranks_[i];
  return !here && activity->doing() != Doing::ended &&
         seen_[i].silent > std::max(activity->patience(), least_silence);
}

bool Watch::is_behind(std::size_t i) const {
  const auto& [rank, activity, here] = ranks_[i];
  if (is_silent(i)) return true;
  if (!here && seen_[i].silent > 1) return false;  // perhaps all of it stands still, and not for what it does
  const Doing doing = activity->doing();
  if (doing != Doing::works && doing != Doing::uses_storage) return false;
  return seen_[i].idle > activity->patience() + (here ? 0 : grace);
}

std::optional<Standstill> Watch::judge() const {
  std::vector<std::size_t> behind;
  bool all_wait = true;
  bool all_ended = true;
  double shortest = 1e30;  // beyond patience, of those that wait
  const bool sees_all = std::ssize(ranks_) == job_ranks_ || (others_wait_ && others_wait_());
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (is_behind(i)) behind.push_back(i);
    const Doing doing = ranks_[i].activity->doing();
    if (doing == Doing::ended) continue;
    all_ended = false;
    if (doing != Doing::waits) all_wait = false;
    const double patience = ranks_[i].activity->patience();
    shortest =
        std::min(shortest, seen_[i].idle - (sees_all ? patience : std::max(patience, unseen_patience)));
  }
  if (!behind.empty()) return standstill(behind);
  if (all_wait && !all_ended && shortest > 0) return standstill({});
  return std::nullopt;
}

std::string Watch::standing(std::size_t i) const {
  const auto& [rank, activity, here] = ranks_[i];
  const std::string what = activity->what();
  std::string text;
  switch (activity->doing()) {
    case Doing::waits:
      text = "waits in " + what;
      break;
    case Doing::ended:
      text = "has ended";
      break;
    default:
      text = what.empty() ? "works" : "is in " + what;
  }
  if (is_behind(i)) text = what.empty() ? "is behind" : "is behind in " + what;
  if (is_silent(i)) text = "does not answer: it hangs or is gone";
  const std::string position = activity->position();
  return fmt::format("rank {} {} ({})", rank, text, position.empty() ? "start" : position);
}

Standstill Watch::standstill(const std::vector<std::size_t>& behind) const {
  std::vector<std::size_t> order = behind;
  for (std::size_t i = 0; i < ranks_.size(); ++i)
    if (std::find(behind.begin(), behind.end(), i) == behind.end()) order.push_back(i);
  double idle = 1e30;
  for (const std::size_t i : behind.empty() ? order : behind)
    if (ranks_[i].activity->doing() != Doing::ended)
      idle = std::min(idle, is_silent(i) ? seen_[i].silent : seen_[i].idle);
  std::string text = fmt::format("no progress for {:.0f} s", idle);
  for (std::size_t n = 0; n < std::min(order.size(), most_named); ++n)
    text += (n == 0 ? ": " : "; ") + standing(order[n]);
  const int others = job_ranks_ - static_cast<int>(std::min(order.size(), most_named));
  if (others > 0) text += fmt::format("; and {} more ranks", others);
  return {ranks_[order.front()].rank, text};
}

namespace {

struct Wills {
  std::mutex mutex;
  std::uint64_t next = 0;
  std::map<std::uint64_t, std::function<void()>> all;
};

Wills& wills() {
  static auto* const all = new Wills;  // never destroyed: a process may end at any time
  return *all;
}

}  // namespace

LastWill::LastWill(std::function<void()> will) {
  const std::lock_guard lock(wills().mutex);
  id_ = wills().next++;
  wills().all.emplace(id_, std::move(will));
}

LastWill::~LastWill() {
  if (std::uncaught_exceptions() > exceptions_) return;
  const std::lock_guard lock(wills().mutex);
  wills().all.erase(id_);
}

void say_and_leave_in_order(const std::string& message, int rank, int ranks) {
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  };
  const auto state = std::make_shared<State>();
  start_quiet_thread([state, message, rank, ranks] {
    const log::RankScope scope(rank, ranks);
    if (!message.empty()) log::error("{}", message);
    std::map<std::uint64_t, std::function<void()>> all;
    {
      const std::lock_guard lock(wills().mutex);
      all = wills().all;
    }
    for (const auto& [id, will] : all) {
      try {
        will();
      } catch (const std::exception& e) {
        log::warn("{}", e.what());
      }
    }
    const std::lock_guard lock(state->mutex);
    state->done = true;
    state->changed.notify_all();
  }).detach();
  std::unique_lock lock(state->mutex);
  state->changed.wait_for(lock, std::chrono::seconds(5), [&] { return state->done; });
}

}  // namespace tessera
