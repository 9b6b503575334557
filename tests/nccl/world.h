// What the communicators of the stand-in for NCCL (stub.h) share: the calls that have met, and those that
// wait.
#pragma once

#include <nccl.h>

#include <array>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/emulation/launch.h"

namespace tessera::nccl_stub {

enum class Kind { all_gather, broadcast, all_reduce, reduce_scatter, reduce, send, recv };

struct Op {
  Kind kind;
  const void* in = nullptr;
  void* out = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclUint8;
  ncclRedOp_t sum = ncclSum;
  int peer = 0;  // or root
  const void* stream = nullptr;
  std::string text() const;
  std::size_t bytes() const;
  // What it touches on rank `rank` of `size`.
  std::vector<emulation::Transfer> touches(int rank, int size) const;
  bool is_message() const { return kind == Kind::send || kind == Kind::recv; }
};

// The ranks of one unique id. All of it under State::mutex.
class World {
 public:
  int size = 0;
  std::map<int, ncclComm*> comms;
  int finalized = 0;
  bool dead = false;  // a rank has aborted: nothing ends any more
  bool ready() const { return static_cast<int>(comms.size()) == size; }

  // Rank `rank` has asked for this. In progress until it says otherwise to its ncclComm; `alone` is a send
  // that its host need not wait for.
  void add(int rank, const Op& op, bool alone);
  bool connected(int from, int to) const { return connected_.contains({from, to}); }
  void forget(int rank);

 private:
  struct Message {
    Op op;
    std::vector<std::byte> data;
    bool alone;
  };
  void complete(const std::vector<std::optional<Op>>& ops);
  void match(int from, int to);
  void fault(const std::string& text);

  std::map<int, std::size_t> collectives_asked_;                   // by rank
  std::map<std::size_t, std::vector<std::optional<Op>>> meeting_;  // by place in that order
  std::map<std::pair<int, int>, std::deque<Message>> sends_;
  std::map<std::pair<int, int>, std::deque<Op>> recvs_;
  std::set<std::pair<int, int>> connected_;
};

struct State {
  std::mutex mutex;
  std::map<std::size_t, std::shared_ptr<World>> worlds;  // by unique id
  std::size_t ids = 0;
  std::set<ncclComm*> alive;
  int made = 0, aborted = 0;
  std::vector<std::string> faults, calls;
  std::map<std::array<int, 3>, ncclResult_t> broken_calls;  // by size, rank, place
};
State& state();

}  // namespace tessera::nccl_stub

struct ncclComm {
  std::shared_ptr<tessera::nccl_stub::World> world;
  int rank = 0;
  std::thread::id thread = std::this_thread::get_id();
  const void* stream = nullptr;
  int asked = 0;
  int in_progress = 0;
  std::map<int, int> unreceived;  // messages that left, by receiver
  bool finalized = false;
  ncclResult_t error = ncclSuccess;
};
