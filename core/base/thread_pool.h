// A pool of worker threads owned by one rank (or one tool). No OpenMP, no process-wide pool.
//
// `parallel_for` is called by the owning thread only, never from inside a task. Which thread runs which item
// is not fixed; callers cut work into items by shape alone, so results do not depend on the number of
// threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace tessera {

class ThreadPool {
 public:
  // `threads` counts the calling thread, so 1 starts none; >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }

  // Runs task(0) … task(items-1), the caller taking part, and returns when all are done. The first exception
  // that a task threw is rethrown here, after the others finished.
  void parallel_for(std::int64_t items, const std::function<void(std::int64_t)>& task);

  // The same; `slot` in [0, size()) tells apart tasks that run at the same time, for scratch memory.
  void parallel_for_slots(std::int64_t items, const std::function<void(std::int64_t item, int slot)>& task);

  // Runs task(begin, end) over [0, count) cut into blocks of `grain`; for elementwise work.
  void parallel_blocks(std::int64_t count, std::int64_t grain,
                       const std::function<void(std::int64_t, std::int64_t)>& task);

 private:
  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

// Hardware threads this process may use (its affinity mask), at least 1.
int available_cpus();

}  // namespace tessera
