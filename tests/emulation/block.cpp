#include "tests/emulation/block.h"

#include <cstring>
#include <numeric>
#include <string_view>

namespace tessera::emulation {
namespace {

constexpr int warp_size = 32;

const char* name(WarpOperation operation) {
  static constexpr std::array<const char*, 4> names{"sync_warp", "shuffle_xor", "shuffle_down", "shuffle"};
  return names[static_cast<std::size_t>(operation)];
}

std::string place(const std::source_location& where) {
  const std::string_view file = where.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), where.line());
}

bool same(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace

void fail_of_thread(const std::string& what) {
  fail("emulated kernel: block {}, thread {}: {}", current.block, current.thread, what);
}

Block& Block::of_this_thread() {
  static thread_local Block block;
  return block;
}

void Block::run(Body body, const void* arguments, std::int64_t index, const BlockShape& shape,
                std::uint64_t seed) {
  const auto n = static_cast<std::size_t>(shape.threads);
  body_ = body;
  arguments_ = arguments;
  here_ = {index, shape.blocks, 0, shape.threads, this, {}};
  random_.state = seed;
  fresh_first_ = (random_.next() & 1U) != 0;
  threads_.assign(n, {});
  if (warps_.size() < n / warp_size) warps_.resize(n / warp_size);
  order_.resize(n);
  std::iota(order_.begin(), order_.end(), 0);
  random_.shuffle(order_);
  next_fresh_ = 0;
  finished_ = 0;
  shared_.begin(shape.shared_bytes, ++epoch_);
  const Current outer = current;
  schedule();
  if (error_ == nullptr && finished_ < shape.threads) error_ = std::make_exception_ptr(Error(stall()));
  if (error_ != nullptr) abandon();
  current = outer;
  if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Block::schedule() {
  while (error_ == nullptr) {
    const bool fresh = next_fresh_ < order_.size();
    if (fresh && (fresh_first_ || ready_.empty())) {
      idle_fiber().resume();
    } else if (!ready_.empty()) {
      const std::size_t pick = random_.below(ready_.size());
      const int thread = ready_[pick];
      ready_[pick] = ready_.back();
      ready_.pop_back();
      threads_[static_cast<std::size_t>(thread)].fiber->resume();
    } else {
      return;
    }
  }
}

Fiber& Block::idle_fiber() {
  if (idle_.empty()) {
    const std::size_t at = fibers_.size();
    fibers_.push_back(std::make_unique<Fiber>([this, at] { run_fresh_threads(*fibers_[at]); }));
    idle_.push_back(fibers_.back().get());
  }
  Fiber& fiber = *idle_.back();
  idle_.pop_back();
  return fiber;
}

void Block::run_fresh_threads(Fiber& fiber) {
  while (next_fresh_ < order_.size() && error_ == nullptr) {
    const int index = order_[next_fresh_++];
    Thread& thread = threads_[static_cast<std::size_t>(index)];
    thread.state = State::running;
    thread.fiber = &fiber;
    enter(index);
    try {
      body_(arguments_);
    } catch (const Abandoned&) {
      break;
    } catch (...) {
      error_ = std::current_exception();
    }
    thread.state = State::finished;
    ++finished_;
  }
  idle_.push_back(&fiber);
}

// No barrier of the block or of the warp is passed while one of its threads runs.
void Block::enter(int thread) {
  current = here_;
  current.thread = thread;
  current.now = {thread, epoch_, warps_[static_cast<std::size_t>(thread / warp_size)].epoch};
}

void Block::wait(State state) {
  const int index = current.thread;
  Thread& thread = threads_[static_cast<std::size_t>(index)];
  thread.state = state;
  thread.fiber->suspend();
  if (abandoned_) throw Abandoned{};
  enter(index);
  thread.state = State::running;
}

void Block::release(int first, int count) {
  for (int thread = first; thread < first + count; ++thread) ready_.push_back(thread);
}

void Block::sync_threads(const std::source_location& where) {
  if (at_barrier_ == 0)
    barrier_ = where;
  else if (!same(barrier_, where))
    fail_here("meets sync_threads() at {} while others of its block wait in the one at {}", place(where),
              place(barrier_));
  if (++at_barrier_ == here_.threads) {
    at_barrier_ = 0;
    ++epoch_;
    release(0, here_.threads);
  }
  wait(State::at_barrier);
}

const Block::Lane* Block::meet_warp(WarpOperation operation, const void* value, std::size_t bytes,
                                    const std::source_location& where) {
  Warp& warp = warps_[static_cast<std::size_t>(current.thread / warp_size)];
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.bytes = bytes;
    warp.where = where;
  } else if (warp.operation != operation || warp.bytes != bytes || !same(warp.where, where)) {
    fail_here("meets {}() at {} while others of its warp wait in {}() at {}", name(operation), place(where),
              name(warp.operation), place(warp.where));
  }
  auto& lanes = warp.lanes[warp.epoch % 2];
  if (bytes > 0)
    std::memcpy(lanes[static_cast<std::size_t>(current.thread % warp_size)].data(), value, bytes);
  if (++warp.arrived == warp_size) {
    warp.arrived = 0;
    ++warp.epoch;
    release(current.thread / warp_size * warp_size, warp_size);
  }
  wait(State::in_warp);
  return lanes.data();
}

void Block::note_arena() {
  if (++threads_[static_cast<std::size_t>(current.thread)].arenas > 1)
    fail_here("makes a second SharedArena, whose arrays would lie over the first's");
}

void Block::abandon() {
  abandoned_ = true;
  ready_.clear();
  for (Thread& thread : threads_)
    if (thread.state == State::at_barrier || thread.state == State::in_warp) thread.fiber->resume();
  abandoned_ = false;
  at_barrier_ = 0;
  for (Warp& warp : warps_) warp.arrived = 0;
}

std::string Block::waits_at(int thread) const {
  const Thread& of = threads_[static_cast<std::size_t>(thread)];
  if (of.state == State::finished) return fmt::format("thread {} has finished", thread);
  if (of.state == State::at_barrier)
    return fmt::format("thread {} waits in sync_threads() at {}", thread, place(barrier_));
  const Warp& warp = warps_[static_cast<std::size_t>(thread / warp_size)];
  return fmt::format("thread {} waits in {}() at {}", thread, name(warp.operation), place(warp.where));
}

// No thread can go on, and some have not finished. A warp that lacks some of its threads is named first: what
// it lacks explains a barrier that lacks the warp.
std::string Block::stall() const {
  for (int first = 0; first < here_.threads; first += warp_size) {
    const Warp& warp = warps_[static_cast<std::size_t>(first / warp_size)];
    if (warp.arrived == 0) continue;
    int other = first;
    while (threads_[static_cast<std::size_t>(other)].state == State::in_warp) ++other;
    return fmt::format("emulated kernel: block {}, warp {}: {}() at {} is met by {} of 32 threads; {}",
                       here_.block, first / warp_size, name(warp.operation), place(warp.where), warp.arrived,
                       waits_at(other));
  }
  int other = 0;
  while (threads_[static_cast<std::size_t>(other)].state == State::at_barrier) ++other;
  return fmt::format("emulated kernel: block {}: sync_threads() at {} is met by {} of {} threads; {}",
                     here_.block, place(barrier_), at_barrier_, here_.threads, waits_at(other));
}

}  // namespace tessera::emulation
