#include "parallel/comm/nccl_ways.h"

#include <vector>

#include "core/base/error.h"

namespace tessera {
// The end of a communicator may wait for its other rank: all take theirs in one order.
NcclWays::~NcclWays() {
  for (auto& [ends, way] : ways_) way.comm.reset();
}

void NcclWays::connect(const std::function<void(Ids* all, const Ids* mine)>& gather) {
  const std::array<int, 2> neighbours{(rank_ + 1) % size_, (rank_ + size_ - 1) % size_};
  Ids mine{};
  for (ncclUniqueId& id : mine) job_.take(ncclGetUniqueId(&id), "making ways for messages");
  std::vector<Ids> all(static_cast<std::size_t>(size_));
  gather(all.data(), &mine);
  for (std::size_t i = 0; i < (size_ == 2 ? 1U : 2U); ++i) {
    const int peer = neighbours[i];
    make({rank_, peer}, mine[i]);
    // Who comes after this rank has it as the one before, unless there are two ranks.
    make({peer, rank_}, all[static_cast<std::size_t>(peer)][size_ == 2 ? 0 : 1 - i]);
  }
  for (auto& [ends, way] : ways_) way.comm->settle();
  try_all();
}

void NcclWays::make(const Ends& ends, const ncclUniqueId& id) {
  Way& way = ways_[ends];
  way.stream = job_.device().make_stream(true);
  way.comm = std::make_unique<NcclComm>(job_, id, 2, ends.first == rank_ ? 0 : 1);
}

// NCCL connects two ranks at their first message, and both must be there: here, so that no send waits.
void NcclWays::try_all() {
  Device& device = job_.device();
  const Tensor bytes = Tensor::zeros({static_cast<std::int64_t>(ways_.size())}, DType::u8, device);
  const std::uint64_t ready = device.stream().record();
  std::int64_t i = 0;
  for (auto& [ends, made] : ways_) {
    void* byte = bytes.narrow(0, i++, 1).raw();
    made.stream->wait(ready);
    made.comm->begin("a first message", [&, from = ends.first, &way = made] {
      return from == rank_ ? ncclSend(byte, 1, ncclUint8, 1, way.comm->get(), native(*way.stream))
                           : ncclRecv(byte, 1, ncclUint8, 0, way.comm->get(), native(*way.stream));
    });
  }
  for (auto& [ends, way] : ways_) {
    way.comm->settle();
    device.stream().wait(way.stream->record());
  }
}

void NcclWays::check_way(int from, int to) const {
  job_.throw_if_failed();
  if (!ways_.contains({from, to}))
    fail("no way for messages on GPUs from rank {} to {}: connect() makes those between neighbours", from,
         to);
}

NcclWays::Way& NcclWays::way(const Ends& ends) {
  check_way(ends.first, ends.second);
  return ways_.at(ends);
}

void NcclWays::send(int to, const std::string& call, const void* data, std::size_t bytes) {
  Way& way = this->way({rank_, to});
  while (!way.sent.empty() && way.stream->reached(way.sent.front().event)) way.sent.pop_front();
  if (bytes == 0) return;
  Device& device = job_.device();
  const Tensor copy = Tensor::empty({static_cast<std::int64_t>(bytes)}, DType::u8, device);
  device.copy(copy.raw(), data, bytes);
  way.stream->wait(device.stream().record());
  way.comm->ask(
      call, [&] { return ncclSend(copy.raw(), bytes, ncclUint8, 1, way.comm->get(), native(*way.stream)); });
  way.sent.push_back({copy, way.stream->record()});
}

void NcclWays::recv(int from, const std::string& call, void* to, std::size_t bytes) {
  Way& way = this->way({from, rank_});
  if (bytes == 0) return;
  way.stream->wait(job_.device().stream().record());
  way.comm->ask(call,
                [&] { return ncclRecv(to, bytes, ncclUint8, 0, way.comm->get(), native(*way.stream)); });
  job_.device().stream().wait(way.stream->record());
}

}  // namespace tessera
