#include "tests/nccl/stub.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "tests/nccl/world.h"

namespace tessera::nccl_stub {
namespace {

using Lock = std::lock_guard<std::mutex>;

// A thread's open groups, and what it has asked for in them.
struct OpenGroup {
  int depth = 0;
  std::vector<std::pair<ncclComm*, Op>> ops;
};
thread_local OpenGroup open_group;

ncclResult_t fault(ncclComm* comm, const std::string& text) {
  state().faults.push_back(text);
  if (comm != nullptr && state().alive.contains(comm)) comm->error = ncclInvalidUsage;
  return ncclInvalidUsage;
}

std::string who(const ncclComm& comm) {
  return fmt::format("rank {} of {}", comm.rank, comm.world->size);
}

// "" if the communicator may be asked for something now.
std::string fault_of_comm(ncclComm* comm) {
  if (comm == nullptr || !state().alive.contains(comm)) return "a call on no live communicator";
  if (!comm->world->ready()) return who(*comm) + ": a call before the communicator is made";
  if (comm->thread != std::this_thread::get_id()) return who(*comm) + ": a call on another thread";
  if (comm->in_progress > 0) return who(*comm) + ": a call while one before is in progress";
  if (comm->finalized) return who(*comm) + ": a call after the end";
  return "";
}

// "" if this may be asked for now, which it then has been, of its stream and its memory.
std::string fault_of_op(ncclComm& comm, const Op& op) {
  emulation::KernelStream* stream = emulation::stream_of(op.stream);
  if (stream == nullptr) return "on a stream of no device";
  if (comm.stream != nullptr && comm.stream != op.stream) return "on a second stream";
  comm.stream = op.stream;
  if (op.is_message() && op.peer == comm.rank) return "to itself";
  if (op.peer < 0 || op.peer >= comm.world->size) return fmt::format("with rank {}, of no rank", op.peer);
  for (const auto& [to, messages] : comm.unreceived)
    if (messages > 0 && !(op.kind == Kind::send && op.peer == to))
      return fmt::format("behind a message to rank {} that is not received: its kernel may never start", to);
  try {
    stream->transfer(op.touches(comm.rank, comm.world->size));
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// What one rank asks for at once.
ncclResult_t submit(ncclComm* comm, const std::vector<Op>& ops, bool grouped) {
  const std::string refused = fault_of_comm(comm);
  if (!refused.empty()) return fault(comm, refused);
  World& world = *comm->world;
  for (const Op& op : ops) state().calls.push_back(fmt::format("{}: {}", who(*comm), op.text()));
  if (const auto broken = state().broken_calls.find({world.size, comm->rank, comm->asked++});
      broken != state().broken_calls.end()) {
    comm->error = broken->second;
    return ncclInProgress;
  }
  for (const Op& op : ops)
    if (const std::string wrong = fault_of_op(*comm, op); !wrong.empty())
      return fault(comm, fmt::format("{}: {} {}", who(*comm), op.text(), wrong));
  for (const Op& op : ops)
    world.add(comm->rank, op, op.kind == Kind::send && !grouped && world.connected(comm->rank, op.peer));
  return comm->in_progress > 0 ? ncclInProgress : ncclSuccess;
}

ncclResult_t ask(ncclComm* comm, const Op& op) {
  if (open_group.depth > 0) {
    open_group.ops.emplace_back(comm, op);
    return ncclSuccess;
  }
  const Lock lock(state().mutex);
  return submit(comm, {op}, false);
}

// Whether the GPU may be at work in it, and without end.
bool waits(const ncclComm& comm) {
  return comm.in_progress > 0 || comm.error != ncclSuccess ||
         std::any_of(comm.unreceived.begin(), comm.unreceived.end(),
                     [](const auto& messages) { return messages.second > 0; });
}

void end(ncclComm* comm) {
  comm->world->forget(comm->rank);
  state().alive.erase(comm);
  delete comm;
}

}  // namespace

void reset() {
  const Lock lock(state().mutex);
  state().worlds.clear();
  state().made = state().aborted = 0;
  state().faults.clear();
  state().calls.clear();
  state().broken_calls.clear();
  open_group = {};
}

std::vector<std::string> faults() {
  const Lock lock(state().mutex);
  return state().faults;
}

std::vector<std::string> calls() {
  const Lock lock(state().mutex);
  return state().calls;
}

Communicators communicators() {
  const Lock lock(state().mutex);
  return {state().made, static_cast<int>(state().alive.size()), state().aborted};
}

void break_call(int size, int rank, int call, ncclResult_t error) {
  const Lock lock(state().mutex);
  state().broken_calls[{size, rank, call}] = error;
}

void break_now(int size, int rank, ncclResult_t error) {
  const Lock lock(state().mutex);
  for (ncclComm* comm : state().alive)
    if (comm->world->size == size && comm->rank == rank) comm->error = error;
}

}  // namespace tessera::nccl_stub

// NCCL's own names and signatures from here on.
using namespace tessera::nccl_stub;

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Lock lock(state().mutex);
  const std::size_t number = ++state().ids;
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &number, sizeof number);
  state().worlds[number] = std::make_shared<World>();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const Lock lock(state().mutex);
  std::size_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  const auto found = state().worlds.find(number);
  if (found == state().worlds.end()) return fault(nullptr, "an id that ncclGetUniqueId did not make");
  if (config == nullptr || config->blocking != 0) return fault(nullptr, "a communicator that blocks");
  World& world = *found->second;
  if (world.size != 0 && world.size != size) return fault(nullptr, "ranks disagree about their number");
  if (rank < 0 || rank >= size || world.comms.contains(rank))
    return fault(nullptr, fmt::format("rank {} of {} is taken, or none", rank, size));
  world.size = size;
  *comm = world.comms[rank] = new ncclComm;
  (*comm)->world = found->second;
  (*comm)->rank = rank;
  state().alive.insert(*comm);
  ++state().made;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const Lock lock(state().mutex);
  if (comm == nullptr || !state().alive.contains(comm))
    return fault(nullptr, "a question to no communicator");
  if (open_group.depth > 0) return fault(comm, who(*comm) + ": a question within an open group");
  const bool busy = !comm->world->ready() || comm->in_progress > 0 ||
                    (comm->finalized && (waits(*comm) || comm->world->finalized < comm->world->size));
  *result = comm->error != ncclSuccess ? comm->error : busy ? ncclInProgress : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const Lock lock(state().mutex);
  const std::string refused = fault_of_comm(comm);
  if (!refused.empty()) return fault(comm, refused);
  comm->finalized = true;
  ++comm->world->finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const Lock lock(state().mutex);
  if (comm == nullptr || !state().alive.contains(comm)) return fault(nullptr, "the end of no communicator");
  if (!comm->finalized || comm->in_progress > 0) fault(comm, who(*comm) + ": destroyed before its end");
  end(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Lock lock(state().mutex);
  if (comm == nullptr || !state().alive.contains(comm)) return fault(nullptr, "the end of no communicator");
  if (open_group.depth == 0)
    for (ncclComm* other : state().alive)
      if (other != comm && other->thread == comm->thread && waits(*other))
        fault(nullptr,
              who(*comm) + ": aborted alone while the GPU waits in another communicator: a deadlock");
  ++state().aborted;
  end(comm);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++open_group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  const Lock lock(state().mutex);
  if (open_group.depth == 0) return fault(nullptr, "ncclGroupEnd without ncclGroupStart");
  if (--open_group.depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  std::vector<std::pair<ncclComm*, Op>> all;
  all.swap(open_group.ops);
  while (!all.empty()) {  // by communicator, in order
    ncclComm* comm = all.front().first;
    std::vector<Op> ops;
    std::erase_if(all, [&](const auto& one) {
      if (one.first == comm) ops.push_back(one.second);
      return one.first == comm;
    });
    if (const ncclResult_t one = submit(comm, ops, true); one != ncclSuccess && result != ncclInvalidUsage)
      result = one;
  }
  return result;
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return ask(comm, {Kind::all_gather, in, out, count, type, ncclSum, 0, stream});
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {Kind::broadcast, in, out, count, type, ncclSum, root, stream});
}
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {Kind::all_reduce, in, out, count, type, op, 0, stream});
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {Kind::reduce_scatter, in, out, count, type, op, 0, stream});
}
ncclResult_t ncclReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                        int root, ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {Kind::reduce, in, out, count, type, op, root, stream});
}
ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return ask(comm, {Kind::send, in, nullptr, count, type, ncclSum, peer, stream});
}
ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return ask(comm, {Kind::recv, nullptr, out, count, type, ncclSum, peer, stream});
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError    ? "remote process exited or there was a network error"
         : result == ncclSystemError  ? "unhandled system error"
         : result == ncclInvalidUsage ? "invalid usage"
                                      : "an error";
}
const char* ncclGetLastError(ncclComm_t) {
  static thread_local std::string text;
  const Lock lock(state().mutex);
  text = state().faults.empty() ? "" : state().faults.back();
  return text.c_str();
}
