#include "core/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/activity.h"

namespace tessera {
namespace {

// Workers spin this many times before they sleep: a step is thousands of short loops.
constexpr int spins = 4000;

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
  std::atomic<std::uint64_t> generation{0};  // one per parallel_for
  std::atomic<bool> stop{false};
  const std::function<void(std::int64_t, int)>* task = nullptr;
  std::int64_t items = 0;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> busy{0};  // workers that have not yet finished this generation
  std::exception_ptr error;
  std::vector<std::thread> workers;

  void drain(int slot) {
    for (std::int64_t i = next.fetch_add(1); i < items; i = next.fetch_add(1)) {
      try {
        (*task)(i, slot);
        note_progress();  // the owner's; workers tell of none
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  void work(int slot) {
    std::uint64_t seen = 0;
    while (true) {
      for (int i = 0; i < spins && generation.load() == seen && !stop.load(); ++i) __builtin_ia32_pause();
      if (generation.load() == seen && !stop.load()) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen || stop.load(); });
      }
      if (stop.load()) return;
      seen = generation.load();
      drain(slot);
      if (busy.fetch_sub(1) == 1) {
        const std::lock_guard lock(mutex);
        finished.notify_one();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), state_(std::make_unique<State>()) {
  assert(threads >= 1);
  for (int i = 1; i < threads; ++i)
    state_->workers.emplace_back([state = state_.get(), i] { state->work(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::parallel_for(std::int64_t items, const std::function<void(std::int64_t)>& task) {
  parallel_for_slots(items, [&task](std::int64_t item, int) { task(item); });
}

void ThreadPool::parallel_for_slots(std::int64_t items, const std::function<void(std::int64_t, int)>& task) {
  if (threads_ == 1 || items <= 1) {
    for (std::int64_t i = 0; i < items; ++i) {
      task(i, 0);
      note_progress();
    }
    return;
  }
  State& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    s.task = &task;
    s.items = items;
    s.next = 0;
    s.busy = threads_ - 1;
    s.error = nullptr;
    s.generation.fetch_add(1);
  }
  s.wake.notify_all();
  s.drain(0);
  for (int i = 0; i < spins && s.busy.load() != 0; ++i) __builtin_ia32_pause();
  std::unique_lock lock(s.mutex);
  s.finished.wait(lock, [&] { return s.busy.load() == 0; });
  if (s.error) std::rethrow_exception(s.error);
}

void ThreadPool::parallel_blocks(std::int64_t count, std::int64_t grain,
                                 const std::function<void(std::int64_t, std::int64_t)>& task) {
  parallel_for((count + grain - 1) / grain,
               [&](std::int64_t i) { task(i * grain, std::min(count, (i + 1) * grain)); });
}

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace tessera
