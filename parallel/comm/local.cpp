#include "parallel/comm/local.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <tuple>

#include "core/base/activity.h"
#include "core/base/log.h"
#include "core/base/watch.h"
#include "core/tensor/device.h"
#include "parallel/replica_fault.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

// What all groups of a process share: the first failure of any rank. A group's own lock may be held where its
// lock is taken.
class Hub {
 public:
  // Waits, in `call`, until `done`, or another rank has failed. With the group's lock.
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, std::condition_variable& news, const std::string& call,
            Done done) {
    std::optional<DoingScope> waiting;
    while (!done() && !failed_) {
      // Failures are not announced to each group of ranks: they are looked for.
      if (news.wait_for(lock, std::chrono::milliseconds(50)) == std::cv_status::no_timeout || done())
        continue;
      if (!waiting) waiting.emplace(Doing::waits, call);
    }
    note_progress();
    if (!done()) throw_if_failed();
  }

  void throw_if_failed() const {
    if (failed_) throw PeerFailed(fmt::format("rank {} failed", cause_rank_.load()));
  }

  void note_failure(int rank, std::exception_ptr cause) {
    const std::lock_guard lock(mutex_);
    if (!failed_) {
      cause_ = std::move(cause);
      cause_rank_ = rank;
      failed_ = true;
    }
    ended_changed_.notify_all();
  }

  void note_end() {
    const std::lock_guard lock(mutex_);
    ++ended_;
    ended_changed_.notify_all();
  }

  // A thread cannot be ended from outside: where one does not come back within ten seconds of another's
  // failure, the process goes, and says why.
  void wait_for_end(int ranks) {
    std::unique_lock lock(mutex_);
    ended_changed_.wait(lock, [&] { return ended_ == ranks || failed_; });
    if (ended_changed_.wait_for(lock, std::chrono::seconds(10), [&] { return ended_ == ranks; })) return;
    ExitCode code = ExitCode::failure;
    std::string cause;
    try {
      rethrow(ranks);
    } catch (const Error& e) {
      code = e.code();
      cause = e.what();
    }
    say_and_leave_in_order(cause);
    std::_Exit(static_cast<int>(code));
  }

  void rethrow(int ranks) const {
    if (!failed_) return;
    try {
      std::rethrow_exception(cause_);
    } catch (const Error& e) {
      const bool names_rank =
          ranks == 1 || e.code() == ExitCode::watchdog || dynamic_cast<const ReplicasDiffer*>(&e) != nullptr;
      throw Error(names_rank ? e.what() : fmt::format("rank {}: {}", cause_rank_.load(), e.what()), e.code());
    } catch (const std::exception& e) {
      throw Error(fmt::format("rank {}: {}", cause_rank_.load(), e.what()));
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_changed_;
  std::atomic<bool> failed_ = false;
  std::atomic<int> cause_rank_ = 0;
  int ended_ = 0;
  std::exception_ptr cause_;
};

struct Buffer {
  const void* data = nullptr;
  std::size_t bytes = 0;
};

// What the ranks of a group share. A collective is: publish, meet, read the others; and meet again where
// others read what a rank may change once it has returned, which small messages in host memory avoid by
// copies.
class World {
 public:
  World(Hub& hub, std::vector<int> members)
      : hub_(hub),
        members_(std::move(members)),
        posts_{std::vector<Post>(members_.size()), std::vector<Post>(members_.size())} {}

  int size() const { return static_cast<int>(members_.size()); }
  Hub& hub() const { return hub_; }
  // Rank of the whole job that is rank `r` here.
  int member(int r) const { return members_[static_cast<std::size_t>(r)]; }

  // What a rank shows the others: its call, and what it has for each of them, or one thing for all.
  struct Post {
    std::string call;
    std::vector<Buffer> for_rank;
    bool copied = false;  // for_rank points into `copy`
    std::vector<std::byte> copy;
    const Buffer& to(int rank) const {
      return for_rank.size() == 1 ? for_rank[0] : for_rank[static_cast<std::size_t>(rank)];
    }
  };

  // A rank's post of its n-th collective here. That of the one before stays: a rank is at most one ahead.
  Post& post(std::uint64_t n, int rank) { return posts_[n % 2][static_cast<std::size_t>(rank)]; }

  void meet(const std::string& call) {
    hub_.throw_if_failed();
    std::unique_lock lock(mutex_);
    const std::uint64_t round = round_;
    if (++arrived_ == size()) {
      arrived_ = 0;
      ++round_;
      lock.unlock();  // or those it wakes would wait for it at once
      changed_.notify_all();
      return;
    }
    hub_.wait(lock, changed_, call, [&] { return round_ != round; });
  }

  void put(int from, int to, int tag, std::string call, std::vector<std::byte> content) {
    hub_.throw_if_failed();
    {
      const std::lock_guard lock(mutex_);
      mail_[{from, to, tag}].push_back({std::move(call), std::move(content)});
    }
    changed_.notify_all();
  }

  std::vector<std::byte> take(int from, int to, int tag, const std::string& call) {
    std::unique_lock lock(mutex_);
    auto& box = mail_[{from, to, tag}];
    hub_.wait(lock, changed_, fmt::format("{} from rank {}", call, member(from)),
              [&] { return !box.empty(); });
    Letter letter = std::move(box.front());
    box.pop_front();
    if (letter.call != call)
      fail("ranks disagree: rank {} sends a {}, rank {} receives a {}", member(from), letter.call, member(to),
           call);
    return std::move(letter.bytes);
  }

  // The world of the ranks that gave `color` in the group's n-th split, made by whoever comes first.
  std::shared_ptr<World> child(std::uint64_t n, int color, std::vector<int> members) {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<World>& place = children_[{n, color}];
    std::shared_ptr<World> world = place.lock();
    if (!world) place = world = std::make_shared<World>(hub_, std::move(members));
    return world;
  }

 private:
  struct Letter {
    std::string call;
    std::vector<std::byte> bytes;
  };
  Hub& hub_;
  std::mutex mutex_;                 // of what follows but posts_
  std::condition_variable changed_;  // of this group's ranks alone: others need not wake
  std::vector<int> members_;
  std::uint64_t round_ = 0;
  int arrived_ = 0;
  // Each written by its rank before a meeting, read by others after it.
  std::array<std::vector<Post>, 2> posts_;
  std::map<std::tuple<int, int, int>, std::deque<Letter>> mail_;  // by sender, receiver, tag
  std::map<std::pair<std::uint64_t, int>, std::weak_ptr<World>> children_;
};

class LocalGroup : public ProcessGroup {
 public:
  LocalGroup(std::shared_ptr<World> world, int rank)
      : ProcessGroup(rank, world->size()), world_(std::move(world)) {}
  const char* kind() const override { return "threads"; }
  int ranks_on_node() const override { return size(); }
  int rank_on_node() const override { return rank(); }
  void set_patience(double seconds) override { tessera::set_patience(seconds); }
  void set_position(const std::string& text) override { tessera::set_position(text); }
  void still_waiting(const std::string& call, double) override {
    world_->hub().throw_if_failed();
    tell_waiting(call);
  }

 protected:
  void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) override {
    exchange(call, {{in, bytes}}, [&](int r, const Buffer& theirs) {
      copy(call, static_cast<std::byte*>(out) + static_cast<std::size_t>(r) * bytes, theirs);
    });
  }
  void do_all_to_all(const Call& call, std::span<const Incoming> out, std::span<const Outgoing> in) override {
    std::vector<Buffer> mine;
    for (const Outgoing& part : in) mine.push_back({part.data, part.bytes});
    exchange(call, std::move(mine), [&](int r, const Buffer& theirs) {
      const Incoming& place = out[static_cast<std::size_t>(r)];
      if (place.bytes != theirs.bytes)
        fail("ranks disagree in {}: rank {} sends {} bytes, rank {} expects {}", call.text(),
             world_->member(r), theirs.bytes, world_->member(rank()), place.bytes);
      copy(call, place.data, theirs);
    });
  }
  void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) override {
    exchange(call, {{data, bytes}}, [&](int r, const Buffer& theirs) {
      if (r == root && r != rank()) copy(call, data, theirs);
    });
  }
  void do_barrier() override { world_->meet("barrier"); }
  void do_send(const Call& call, const void* data, std::size_t bytes, int to, int tag) override {
    std::vector<std::byte> content(bytes);
    copy(call, content.data(), {data, bytes});
    world_->put(rank(), to, tag, call.text(), std::move(content));
  }
  void do_recv(const Call& call, void* data, std::size_t bytes, int from, int tag) override {
    const std::vector<std::byte> content = world_->take(from, rank(), tag, call.text());
    assert(content.size() == bytes);
    copy(call, data, {content.data(), bytes});
  }
  std::unique_ptr<ProcessGroup> do_split(int color, const std::vector<int>& members, int rank) override {
    std::vector<int> global;
    for (const int member : members) global.push_back(world_->member(member));
    return std::make_unique<LocalGroup>(world_->child(splits_++, color, std::move(global)), rank);
  }

 private:
  template <class Read>
  void exchange(const Call& call, std::vector<Buffer> mine, Read read) {
    const std::uint64_t n = exchanges_++;
    World::Post& own = world_->post(n, rank());
    own.call = call.text();
    own.for_rank = std::move(mine);
    own.copied = copy_small(call, own);
    finish(call);  // what is shown to others must be there
    world_->meet(own.call);
    bool copied = true;
    for (int r = 0; r < size(); ++r) {
      const World::Post& theirs = world_->post(n, r);
      copied = copied && theirs.copied;
      const std::string& first = world_->post(n, 0).call;
      if (theirs.call != first)
        fail("ranks disagree: rank {} calls {}, rank {} calls {}", world_->member(0), first,
             world_->member(r), theirs.call);
    }
    for (int r = 0; r < size(); ++r) read(r, world_->post(n, r).to(rank()));
    if (copied) return;
    finish(call);  // others may change what was read
    world_->meet(own.call);
  }
  // Moves the data of a small post in host memory into the post; false for others.
  static bool copy_small(const Call& call, World::Post& post) {
    constexpr std::size_t small = std::size_t{64} * 1024;
    std::size_t bytes = 0;
    for (const Buffer& part : post.for_rank) bytes += part.bytes;
    if (bytes > small || (call.device != nullptr && call.device->kind() != DeviceKind::cpu)) return false;
    post.copy.resize(bytes);
    std::byte* at = post.copy.data();
    for (Buffer& part : post.for_rank) {
      if (part.bytes > 0) std::memcpy(at, part.data, part.bytes);
      part.data = at;
      at += part.bytes;
    }
    return true;
  }
  static void finish(const Call& call) {
    if (call.device != nullptr) call.device->stream().synchronize();
  }
  // Ranks of one process see each other's memory, on a GPU too.
  static void copy(const Call& call, void* to, const Buffer& from) {
    if (to == from.data || from.bytes == 0) return;
    if (call.device == nullptr)
      std::memcpy(to, from.data, from.bytes);
    else
      call.device->copy(to, from.data, from.bytes);
  }
  std::shared_ptr<World> world_;
  std::uint64_t splits_ = 0;
  std::uint64_t exchanges_ = 0;
};

}  // namespace

void run_local_ranks(int ranks, const std::function<void(ProcessGroup&)>& rank_main) {
  Hub hub;
  std::vector<int> everyone(static_cast<std::size_t>(ranks));
  std::iota(everyone.begin(), everyone.end(), 0);
  const auto world = std::make_shared<World>(hub, everyone);
  std::deque<Activity> activities(static_cast<std::size_t>(ranks));
  std::vector<WatchedRank> watched;
  for (int rank = 0; rank < ranks; ++rank)
    watched.push_back({rank, &activities[static_cast<std::size_t>(rank)], true});
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      const log::RankScope scope(rank, ranks);
      const ActivityScope activity(activities[static_cast<std::size_t>(rank)]);
      tessera::set_patience(first_patience);
      LocalGroup group(world, rank);
      try {
        rank_main(group);
      } catch (const PeerFailed&) {  // the peer's own report is the cause
      } catch (...) {
        hub.note_failure(rank, std::current_exception());
      }
      hub.note_end();
    });
  std::atomic<std::uint32_t> spoken{0};
  {
    const Watch watch(watched, ranks, spoken, [&hub](const Standstill& found) {
      hub.note_failure(found.rank, std::make_exception_ptr(Error(found.text, ExitCode::watchdog)));
    });
    hub.wait_for_end(ranks);
  }
  for (std::thread& thread : threads) thread.join();
  hub.rethrow(ranks);
}

}  // namespace tessera
