#include "parallel/comm/mpi_watch.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <thread>

#include "core/base/error.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

using namespace std::chrono_literals;

constexpr auto look_pause = 1s;
constexpr auto send_pause = 5s;
constexpr auto fresh = 12s;  // what was heard counts so long: two messages may be late

double now_of_node() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

MpiWatch::MpiWatch() {
  MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
  int place = 0;
  int count = 1;
  MPI_Comm_rank(node, &place);
  MPI_Comm_size(node, &count);
  std::vector<int> ranks(static_cast<std::size_t>(count));
  MPI_Allgather(&rank_, 1, MPI_INT, ranks.data(), 1, MPI_INT, node);
  share(node, place, count);
  MPI_Comm_free(&node);
  const bool sees_node = table_->ranks() == count;
  if (!sees_node) {
    ranks = {rank_};
    place = 0;
  }
  const int leads = place == 0 ? 1 : 0;
  std::vector<int> all(static_cast<std::size_t>(size_));
  MPI_Allgather(&leads, 1, MPI_INT, all.data(), 1, MPI_INT, comm_);
  for (int r = 0; r < size_ && leads != 0; ++r)
    if (r != rank_ && all[static_cast<std::size_t>(r)] != 0) leaders_.push_back(r);
  std::vector<WatchedRank> watched;
  for (int i = 0; i < table_->ranks(); ++i)
    watched.push_back({ranks[static_cast<std::size_t>(i)], &table_->of(i), i == place});
  own_ = &table_->of(place);
  scope_.emplace(*own_);
  set_patience(first_patience);
  watch_.emplace(
      watched, size_, table_->spoken(), [this](const Standstill& found) { end(found.text); },
      [this] {
        return now_of_node() - table_->others_waited() < std::chrono::duration<double>(fresh).count();
      });
}

MpiWatch::~MpiWatch() {
  watch_.reset();
  scope_.reset();
  MPI_Comm_free(&comm_);
}

// One table for all ranks of the node; where the system does not let them share memory, one for each.
void MpiWatch::share(MPI_Comm node, int place, int count) {
  std::array<int, 2> where{static_cast<int>(getpid()), -1};  // process and its file
  if (place == 0 && count > 1) where[1] = make_memory_file(ActivityTable::bytes(count));
  int file = where[1];
  if (place == 0 && file >= 0) table_.emplace(file, 0, count, true);
  MPI_Bcast(where.data(), 2, MPI_INT, 0, node);
  if (place != 0 && where[1] >= 0) file = open_memory_file(where[0], where[1]);
  int shared = file >= 0 ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &shared, 1, MPI_INT, MPI_MIN, node);
  if (shared == 0)
    table_.emplace(1);
  else if (place != 0)
    table_.emplace(file, 0, count, false);
  if (file >= 0) ::close(file);
}

bool MpiWatch::all_wait_here() const {
  for (int i = 0; i < table_->ranks(); ++i)
    if (const Doing doing = table_->of(i).doing(); doing != Doing::waits && doing != Doing::ended)
      return false;
  return true;
}

// Only where a wait is long: else messages would pile up at ranks that never wait. A message that is no
// longer true is followed by none and ages; what lay there before the wait was long is as old as it may be.
void MpiWatch::exchange(double seconds) {
  const auto now = Clock::now();
  if (leaders_.empty() || now - looked_ < look_pause || seconds < own_->patience() / 2) return;
  const bool begins = now - looked_ > 2 * look_pause;
  looked_ = now;
  int there = 1;
  MPI_Status status;
  while (MPI_Iprobe(MPI_ANY_SOURCE, 0, comm_, &there, &status) == MPI_SUCCESS && there != 0) {
    MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, 0, comm_, MPI_STATUS_IGNORE);
    if (!begins) heard_[status.MPI_SOURCE] = now;
  }
  if (!all_wait_here()) return;
  bool all = true;
  for (const int leader : leaders_) {
    const auto found = heard_.find(leader);
    if (found == heard_.end() || now - found->second > fresh) all = false;
  }
  if (all) table_->others_waited() = now_of_node();
  if (now - sent_ < send_pause) return;
  sent_ = now;
  for (const int leader : leaders_) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(nullptr, 0, MPI_BYTE, leader, 0, comm_, &request);
    MPI_Request_free(&request);
  }
}

// The thread that hangs cannot be ended, but the job can. MPI's own end may hang with it.
void MpiWatch::end(const std::string& cause) const {
  say_and_leave_in_order(cause, rank_, size_);
  start_quiet_thread([] { MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::watchdog)); }).detach();
  std::this_thread::sleep_for(10s);
  std::_Exit(static_cast<int>(ExitCode::watchdog));
}

}  // namespace tessera
