// The activities of ranks that are processes of one node, in memory that they share: each tells of itself,
// and all see where the others stand without asking them.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/base/activity.h"

namespace tessera {

class ActivityTable {
 public:
  // Memory of this process alone.
  explicit ActivityTable(int ranks);
  // Of an open file, from `offset` (whole pages) on, which has room for bytes(ranks). `first`: makes the
  // activities, before any other process comes. Throws Error where it cannot be mapped.
  ActivityTable(int file, std::int64_t offset, int ranks, bool first);
  ~ActivityTable();
  ActivityTable(const ActivityTable&) = delete;
  ActivityTable& operator=(const ActivityTable&) = delete;

  static std::size_t bytes(int ranks);

  int ranks() const { return ranks_; }
  Activity& of(int rank) const { return activities_[rank]; }
  std::atomic<std::uint32_t>& spoken() const { return head_->spoken; }  // a standstill was told
  // When all ranks of other nodes were last known to wait too, in seconds of the node's clock.
  std::atomic<double>& others_waited() const { return head_->others_waited; }

 private:
  int ranks_;
  void* memory_ = nullptr;
  struct Head {
    std::atomic<std::uint32_t> spoken{0};
    std::atomic<double> others_waited{-1e9};
  };
  Head* head_ = nullptr;
  Activity* activities_ = nullptr;
};

// A file in memory, without a name, for a table; and another process's, by its number there. -1 where the
// system allows no such thing.
int make_memory_file(std::size_t bytes);
int open_memory_file(pid_t process, int file);

}  // namespace tessera
