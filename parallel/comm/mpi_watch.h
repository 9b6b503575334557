// The watch over ranks that are MPI processes (core/base/watch.h): those of a node share an activity table.
//
// Nodes see nothing of each other. Where all ranks of a node wait, its lowest, which then has nothing else to
// do, tells the lowest of the other nodes by messages, so that a job all of which waits is told from one that
// waits for another node's disk.
#pragma once

#include <mpi.h>

#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include "core/base/watch.h"
#include "parallel/comm/activity_table.h"

namespace tessera {

class MpiWatch {
 public:
  // Collective over all ranks, as its end is. The calling thread tells of this rank from then on. A
  // standstill ends the job, from the watcher's thread.
  MpiWatch();
  ~MpiWatch();
  MpiWatch(const MpiWatch&) = delete;
  MpiWatch& operator=(const MpiWatch&) = delete;

  // To be called by the thread that uses MPI while it waits for other ranks, since so many seconds.
  void exchange(double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  void share(MPI_Comm node, int place, int count);
  bool all_wait_here() const;
  [[noreturn]] void end(const std::string& cause) const;

  int rank_ = 0, size_ = 1;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<int> leaders_;  // of other nodes; empty on ranks that lead none
  std::map<int, Clock::time_point> heard_;
  Clock::time_point looked_ = Clock::now(), sent_ = looked_;
  std::optional<ActivityTable> table_;
  Activity* own_ = nullptr;
  std::optional<ActivityScope> scope_;
  std::optional<Watch> watch_;
};

}  // namespace tessera
