#include "tests/nccl/world.h"

#include <algorithm>
#include <cstring>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace tessera::nccl_stub {
namespace {

const char* name(Kind kind) {
  const std::array names{"AllGather", "Broadcast", "AllReduce", "ReduceScatter", "Reduce", "Send", "Recv"};
  return names.at(static_cast<std::size_t>(kind));
}

struct Type {
  const char* name;
  std::size_t bytes;
};
Type type_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat32:
      return {"float32", 4};
    case ncclBfloat16:
      return {"bfloat16", 2};
    case ncclFloat16:
      return {"float16", 2};
    case ncclFloat64:
      return {"float64", 8};
    case ncclInt32:
      return {"int32", 4};
    case ncclInt64:
      return {"int64", 8};
    case ncclUint32:
      return {"uint32", 4};
    default:
      return {"bytes", 1};
  }
}

template <class T>
void add_up(const std::vector<std::optional<Op>>& ops, std::size_t begin, std::size_t count, void* out) {
  std::vector<T> sums(count);
  for (std::size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (const auto& op : ops) sum += static_cast<float>(static_cast<const T*>(op->in)[begin + i]);
    sums[i] = T(sum);
  }
  if (count > 0) std::memcpy(out, sums.data(), count * sizeof(T));
}

// The sum over ranks of elements [begin, begin + count), in order of rank: not the tree's.
void sum_ranks(const std::vector<std::optional<Op>>& ops, std::size_t begin, std::size_t count, void* out) {
  if (ops[0]->type == ncclFloat32)
    add_up<float>(ops, begin, count, out);
  else
    add_up<bf16>(ops, begin, count, out);
}

void move(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

std::byte* part(void* buffer, std::size_t at) {
  return static_cast<std::byte*>(buffer) + at;
}

}  // namespace

State& state() {
  static State all;
  return all;
}

std::string Op::text() const {
  std::string result = fmt::format("{} of {} {}", name(kind), count, type_of(type).name);
  if (kind == Kind::send) result += fmt::format(" to {}", peer);
  if (kind == Kind::recv) result += fmt::format(" from {}", peer);
  if (kind == Kind::broadcast || kind == Kind::reduce) result += fmt::format(" at {}", peer);
  return result;
}

std::size_t Op::bytes() const {
  return count * type_of(type).bytes;
}

std::vector<emulation::Transfer> Op::touches(int rank, int size) const {
  const std::size_t all = bytes() * static_cast<std::size_t>(size);
  switch (kind) {
    case Kind::all_gather:
      return {{in, bytes(), false}, {out, all, true}};
    case Kind::reduce_scatter:
      return {{in, all, false}, {out, bytes(), true}};
    case Kind::all_reduce:
      return {{in, bytes(), false}, {out, bytes(), true}};
    case Kind::reduce:
      return {{in, bytes(), false}, {out, rank == peer ? bytes() : 0, true}};
    case Kind::broadcast:
      return {{in, rank == peer ? bytes() : 0, false}, {out, bytes(), true}};
    case Kind::send:
      return {{in, bytes(), false}};
    case Kind::recv:
      return {{out, bytes(), true}};
  }
  return {};
}

void World::fault(const std::string& text) {
  state().faults.push_back(text);
  for (const auto& [rank, comm] : comms)
    if (comm != nullptr) comm->error = ncclInvalidUsage;
}

void World::add(int rank, const Op& op, bool alone) {
  ncclComm& comm = *comms.at(rank);
  if (op.kind == Kind::send) {
    Message message{op, std::vector<std::byte>(op.bytes()), alone};
    move(message.data.data(), op.in, op.bytes());
    sends_[{rank, op.peer}].push_back(std::move(message));
    ++(alone ? comm.unreceived[op.peer] : comm.in_progress);
    match(rank, op.peer);
    return;
  }
  ++comm.in_progress;
  if (op.kind == Kind::recv) {
    recvs_[{op.peer, rank}].push_back(op);
    match(op.peer, rank);
    return;
  }
  const std::size_t place = collectives_asked_[rank]++;
  auto& ops = meeting_[place];
  ops.resize(static_cast<std::size_t>(size));
  ops[static_cast<std::size_t>(rank)] = op;
  if (dead || !std::all_of(ops.begin(), ops.end(), [](const auto& one) { return one.has_value(); })) return;
  complete(ops);
  meeting_.erase(place);
}

void World::complete(const std::vector<std::optional<Op>>& ops) {
  for (std::size_t r = 1; r < ops.size(); ++r)
    if (ops[r]->text() != ops[0]->text())
      return fault(fmt::format("ranks disagree: rank 0 asks for {}, rank {} for {}", ops[0]->text(), r,
                               ops[r]->text()));
  const Op& first = *ops[0];
  const std::size_t bytes = first.bytes();
  const auto ranks = static_cast<std::size_t>(size);
  std::vector<std::vector<std::byte>> sums(ranks, std::vector<std::byte>(first.count * sizeof(double)));
  for (std::size_t r = 0; r < ranks; ++r) {  // of inputs, before any output is written over them
    if (first.kind == Kind::reduce_scatter) sum_ranks(ops, r * first.count, first.count, sums[r].data());
    if (first.kind == Kind::all_reduce || first.kind == Kind::reduce)
      sum_ranks(ops, 0, first.count, sums[r].data());
  }
  const auto root = static_cast<std::size_t>(first.peer);
  for (std::size_t r = 0; r < ranks; ++r) {
    void* out = ops[r]->out;
    if (first.kind == Kind::all_gather)
      for (std::size_t from = 0; from < ranks; ++from) move(part(out, from * bytes), ops[from]->in, bytes);
    else if (first.kind == Kind::broadcast)
      move(out, ops[root]->in, bytes);
    else if (first.kind != Kind::reduce || r == root)
      move(out, sums[r].data(), bytes);
  }
  for (const auto& [rank, comm] : comms) --comm->in_progress;
}

void World::match(int from, int to) {
  auto& sent = sends_[{from, to}];
  auto& wanted = recvs_[{from, to}];
  while (!dead && !sent.empty() && !wanted.empty()) {
    const Message& message = sent.front();
    const Op& recv = wanted.front();
    if (message.op.count != recv.count || message.op.type != recv.type)
      return fault(fmt::format("ranks disagree: rank {} asks for {}, rank {} for {}", from, message.op.text(),
                               to, recv.text()));
    move(recv.out, message.data.data(), message.data.size());
    --comms.at(to)->in_progress;
    ncclComm& sender = *comms.at(from);
    --(message.alone ? sender.unreceived[to] : sender.in_progress);
    connected_.insert({from, to});
    sent.pop_front();
    wanted.pop_front();
  }
}

void World::forget(int rank) {
  comms[rank] = nullptr;
  dead = true;
}

}  // namespace tessera::nccl_stub
