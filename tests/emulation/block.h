// One block of an emulated kernel: its threads as fibers in an order drawn from a seed.
//
// Threads run one at a time, each until it meets a barrier or ends; those that meet none share one stack, so
// they cost little more than a call. Everything here is of the host thread that runs the block. What a thread
// does wrong throws Error from run(), once every thread's stack is unwound.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "tests/emulation/fiber.h"
#include "tests/emulation/shared.h"

namespace tessera::emulation {

class Block;

// The running thread.
struct Current {
  std::int64_t block = 0, blocks = 0;
  int thread = 0, threads = 0;
  Block* in = nullptr;
  Moment now;
};
inline constinit thread_local Current current{};

// Throws Error about the running thread.
[[noreturn]] void fail_of_thread(const std::string& what);
template <class... Args>
[[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) {
  fail_of_thread(fmt::format(format, std::forward<Args>(args)...));
}

// splitmix64 (Steele, Lea, Flood 2014).
struct Random {
  std::uint64_t state = 0;
  std::uint64_t next() {
    std::uint64_t z = state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>((next() >> 32) * n >> 32); }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }
};

enum class WarpOperation : std::uint8_t { sync_warp, shuffle_xor, shuffle_down, shuffle };

struct BlockShape {
  std::int64_t blocks = 1;
  int threads = 32;
  std::size_t shared_bytes = 0;
};

class Block {
 public:
  static constexpr std::size_t most_lane_bytes = 32;
  using Lane = std::array<std::byte, most_lane_bytes>;
  using Body = void (*)(const void* arguments);

  // The block that this host thread runs kernels with.
  static Block& of_this_thread();

  void run(Body body, const void* arguments, std::int64_t index, const BlockShape& shape, std::uint64_t seed);

  // By the running thread.
  void sync_threads(const std::source_location& where);
  // What the 32 threads of the warp brought, valid until this thread's next operation of its warp.
  const Lane* meet_warp(WarpOperation operation, const void* value, std::size_t bytes,
                        const std::source_location& where);
  void note_arena();
  SharedMemory& shared() { return shared_; }

 private:
  enum class State : std::uint8_t { fresh, running, at_barrier, in_warp, finished };
  struct Thread {
    State state = State::fresh;
    int arenas = 0;
    Fiber* fiber = nullptr;
  };
  struct Warp {
    int arrived = 0;
    std::uint32_t epoch = 0;
    WarpOperation operation = WarpOperation::sync_warp;
    std::size_t bytes = 0;
    std::source_location where;
    std::array<std::array<Lane, 32>, 2> lanes;  // of this operation and the one before
  };
  struct Abandoned {};  // thrown through the threads of a block that failed

  void run_fresh_threads(Fiber& fiber);
  void enter(int thread);
  void wait(State state);
  void release(int first, int count);
  void schedule();
  Fiber& idle_fiber();
  void abandon();
  std::string stall() const;
  std::string waits_at(int thread) const;

  Body body_ = nullptr;
  const void* arguments_ = nullptr;
  Current here_;
  Random random_;
  bool fresh_first_ = false;
  bool abandoned_ = false;
  std::exception_ptr error_;
  std::vector<Thread> threads_;
  std::vector<int> order_;  // of threads that have not begun, from next_fresh_
  std::size_t next_fresh_ = 0;
  std::vector<int> ready_;
  std::vector<Warp> warps_;
  int finished_ = 0;
  int at_barrier_ = 0;
  std::source_location barrier_;
  std::uint32_t epoch_ = 0;  // barriers of this and all earlier blocks
  SharedMemory shared_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
};

}  // namespace tessera::emulation
