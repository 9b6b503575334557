#include "parallel/comm/local.h"

#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "core/base/log.h"

namespace tessera {
namespace {

// What the ranks share. A collective is: publish, meet, read the others, meet again.
class World {
 public:
  explicit World(int size)
      : size_(size), posts_(static_cast<std::size_t>(size)), mail_(static_cast<std::size_t>(size * size)) {}

  struct Post {
    std::string call;
    const void* in = nullptr;
  };

  void publish(int rank, Post post) { posts_[static_cast<std::size_t>(rank)] = std::move(post); }
  const Post& post(int rank) const { return posts_[static_cast<std::size_t>(rank)]; }

  void meet() {
    std::unique_lock lock(mutex_);
    throw_if_failed();
    const std::uint64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return round_ != round || failed_; });
    if (round_ == round) throw_if_failed();
  }

  void put(int from, int to, std::string call, const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    std::unique_lock lock(mutex_);
    auto& box = box_of(from, to);
    changed_.wait(lock, [&] { return !box || failed_; });
    throw_if_failed();
    box = {std::move(call), {first, first + bytes}};
    changed_.notify_all();
  }

  void take(int from, int to, const std::string& call, void* data, std::size_t bytes) {
    std::unique_lock lock(mutex_);
    auto& box = box_of(from, to);
    changed_.wait(lock, [&] { return box || failed_; });
    throw_if_failed();
    if (box->call != call)
      fail("ranks disagree: rank {} sends a {}, rank {} receives a {}", from, box->call, to, call);
    std::memcpy(data, box->bytes.data(), bytes);
    box.reset();
    changed_.notify_all();
  }

  void note_failure(int rank, std::exception_ptr cause) {
    const std::lock_guard lock(mutex_);
    if (!failed_) {
      failed_ = true;
      cause_ = std::move(cause);
      cause_rank_ = rank;
    }
    changed_.notify_all();
  }

  void rethrow() const {
    if (!failed_) return;
    try {
      std::rethrow_exception(cause_);
    } catch (const Error& e) {
      throw Error(size_ > 1 ? fmt::format("rank {}: {}", cause_rank_, e.what()) : e.what(), e.code());
    } catch (const std::exception& e) {
      throw Error(fmt::format("rank {}: {}", cause_rank_, e.what()));
    }
  }

 private:
  struct Letter {
    std::string call;
    std::vector<std::byte> bytes;
  };
  std::optional<Letter>& box_of(int from, int to) {
    return mail_[static_cast<std::size_t>(from) * static_cast<std::size_t>(size_) +
                 static_cast<std::size_t>(to)];
  }
  void throw_if_failed() const {
    if (failed_) throw PeerFailed(fmt::format("rank {} failed", cause_rank_));
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t round_ = 0;
  int arrived_ = 0;
  bool failed_ = false;
  int cause_rank_ = 0;
  std::exception_ptr cause_;
  std::vector<Post> posts_;  // each written by its rank before a meeting, read by others after it
  std::vector<std::optional<Letter>> mail_;
};

class LocalGroup : public ProcessGroup {
 public:
  LocalGroup(World& world, int rank, int size) : ProcessGroup(rank, size), world_(world) {}
  const char* kind() const override { return "threads"; }
  int ranks_on_node() const override { return size(); }

 protected:
  void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) override {
    exchange(call, in, [&](int r, const std::byte* theirs) {
      copy(out, static_cast<std::size_t>(r) * bytes, theirs, bytes);
    });
  }
  void do_all_to_all(const Call& call, void* out, const void* in, std::size_t bytes) override {
    exchange(call, in, [&](int r, const std::byte* theirs) {
      copy(out, static_cast<std::size_t>(r) * bytes, theirs + static_cast<std::size_t>(rank()) * bytes,
           bytes);
    });
  }
  void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) override {
    exchange(call, data, [&](int r, const std::byte* theirs) {
      if (r == root && r != rank()) copy(data, 0, theirs, bytes);
    });
  }
  void do_barrier() override { world_.meet(); }
  void do_send(const Call& call, const void* data, std::size_t bytes, int to) override {
    world_.put(rank(), to, call.text(), data, bytes);
  }
  void do_recv(const Call& call, void* data, std::size_t bytes, int from) override {
    world_.take(from, rank(), call.text(), data, bytes);
  }

 private:
  template <class Read>
  void exchange(const Call& call, const void* in, Read read) {
    world_.publish(rank(), {call.text(), in});
    world_.meet();
    for (int r = 0; r < size(); ++r)
      if (world_.post(r).call != world_.post(0).call)
        fail("ranks disagree: rank 0 calls {}, rank {} calls {}", world_.post(0).call, r,
             world_.post(r).call);
    for (int r = 0; r < size(); ++r) read(r, static_cast<const std::byte*>(world_.post(r).in));
    world_.meet();
  }
  static void copy(void* out, std::size_t offset, const std::byte* from, std::size_t bytes) {
    std::byte* to = static_cast<std::byte*>(out) + offset;
    if (to != from) std::memcpy(to, from, bytes);
  }
  World& world_;
};

}  // namespace

void run_local_ranks(int ranks, const std::function<void(ProcessGroup&)>& rank_main) {
  World world(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      const log::RankScope scope(rank, ranks);
      LocalGroup group(world, rank, ranks);
      try {
        rank_main(group);
      } catch (const PeerFailed&) {  // the peer's own report is the cause
      } catch (...) {
        world.note_failure(rank, std::current_exception());
      }
    });
  for (std::thread& thread : threads) thread.join();
  world.rethrow();
}

}  // namespace tessera
