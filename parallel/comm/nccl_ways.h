// Messages between neighbours on GPUs, none of which makes its sender wait for its receiver.
//
// Each ordered pair of neighbours has a way of its own: a communicator of the two, used in this direction
// only, and a stream. What is sent is copied first, and received in the order it was sent in. A send waits on
// its GPU for earlier work of device.stream(), and there for its recv; device.stream() waits for what is
// received, never for what is sent. The rank's thread only; the job outlives its ways.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/tensor/tensor.h"
#include "parallel/comm/nccl_comm.h"

namespace tessera {

class NcclWays {
 public:
  NcclWays(NcclJob& job, int rank, int size) : job_(job), rank_(rank), size_(size) {}
  ~NcclWays();
  NcclWays(const NcclWays&) = delete;
  NcclWays& operator=(const NcclWays&) = delete;

  using Ids = std::array<ncclUniqueId, 2>;  // of the ways to the rank after, and to the one before
  // Collective: makes the ways between neighbours. `gather` fills `all`, by rank, with what each gives.
  void connect(const std::function<void(Ids* all, const Ids* mine)>& gather);

  // Throws Error for ranks that are no neighbours, or not connected; so do the calls after it.
  void check_way(int from, int to) const;
  // `data`: the device's, or the host's; `to`: the device's.
  void send(int to, const std::string& call, const void* data, std::size_t bytes);
  void recv(int from, const std::string& call, void* to, std::size_t bytes);

 private:
  using Ends = std::pair<int, int>;  // sender, receiver
  struct Way {
    struct Sent {
      Tensor bytes;
      std::uint64_t event;
    };
    // In the order in which they may end, last to first.
    std::deque<Sent> sent;  // not known to have left
    std::unique_ptr<Stream> stream;
    std::unique_ptr<NcclComm> comm;
  };
  void make(const Ends& ends, const ncclUniqueId& id);
  void try_all();
  Way& way(const Ends& ends);

  NcclJob& job_;
  int rank_;
  int size_;
  std::map<Ends, Way> ways_;
};

}  // namespace tessera
