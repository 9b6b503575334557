#include "parallel/comm/nccl_comm.h"

#include <chrono>
#include <thread>

#include "core/base/log.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

const char* advice(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "look for Xid errors in dmesg and at nvidia-smi, and run again with NCCL_DEBUG=WARN";
    case ncclSystemError:
      return "check the network between the nodes (NCCL_SOCKET_IFNAME, NCCL_IB_HCA) and the room in "
             "/dev/shm, "
             "and run again with NCCL_DEBUG=WARN";
    case ncclRemoteError:
      return "a peer or the network to it is gone: look at the other ranks' messages and nodes";
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return "ranks may disagree: run again with TESSERA_CHECK_COLLECTIVES=1";
    default:
      return "run again with NCCL_DEBUG=INFO";
  }
}

bool is_failure(ncclResult_t result) {
  return result != ncclSuccess && result != ncclInProgress;
}

// Lives as long as the thread's jobs.
std::shared_ptr<NcclRank> of_this_thread() {
  static thread_local std::weak_ptr<NcclRank> current;
  std::shared_ptr<NcclRank> rank = current.lock();
  if (rank == nullptr) current = rank = std::make_shared<NcclRank>();
  return rank;
}

}  // namespace

ncclResult_t worse(ncclResult_t a, ncclResult_t b) {
  if (is_failure(a)) return a;
  return b == ncclSuccess ? a : b;
}

cudaStream_t native(Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u32:
      return ncclUint32;
    default:
      return ncclUint8;
  }
}

void NcclRank::abort_all() noexcept {
  ncclGroupStart();
  for (NcclComm* comm : comms) comm->abort();
  ncclGroupEnd();
}

NcclJob::NcclJob(int rank, Device& device, StillWaiting still_waiting)
    : rank_(rank), device_(device), still_waiting_(std::move(still_waiting)), of_rank_(of_this_thread()) {
  device_.while_waiting = [this](double seconds) { look(seconds); };
}

NcclJob::~NcclJob() {
  device_.while_waiting = nullptr;
}

void NcclJob::throw_if_failed() const {
  if (of_rank_->failure) std::rethrow_exception(of_rank_->failure);
}

void NcclJob::fail_with(std::exception_ptr cause) {
  if (!of_rank_->failure) of_rank_->failure = std::move(cause);
  of_rank_->abort_all();
  std::rethrow_exception(of_rank_->failure);
}

void NcclJob::take(ncclResult_t result, const std::string& call, ncclComm_t comm) {
  if (!is_failure(result)) return;
  const char* last = ncclGetLastError(comm);
  const std::string detail = last == nullptr || *last == '\0' ? "" : fmt::format(" ({})", last);
  fail_with(std::make_exception_ptr(
      Error(fmt::format("rank {} on {} ({}): NCCL failed in {}: {}{}; {}", rank_, device_.identity(),
                        device_.model(), call, ncclGetErrorString(result), detail, advice(result)))));
}

void NcclJob::still_waiting(const std::string& call, double seconds) {
  try {
    still_waiting_(call, seconds);
  } catch (...) {
    fail_with(std::current_exception());
  }
}

void NcclJob::look(double seconds) {
  throw_if_failed();
  const std::set<NcclComm*> comms = of_rank_->comms;
  for (NcclComm* comm : comms) comm->look();
  still_waiting(last_call_, seconds);
}

NcclComm::NcclComm(NcclJob& job, const ncclUniqueId& id, int size, int rank) : job_(job) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, size, id, rank, &config);
  job_.of_rank_->comms.insert(this);
  try {
    job_.take(result, call_);
  } catch (...) {  // there will be no destructor
    job_.of_rank_->comms.erase(this);
    throw;
  }
}

NcclComm::~NcclComm() {
  if (job_.failed() || std::uncaught_exceptions() > exceptions_) {
    job_.of_rank_->abort_all();
  } else {
    try {
      ask("ending a communicator", [&] { return ncclCommFinalize(comm_); });
      job_.take(ncclCommDestroy(std::exchange(comm_, nullptr)), call_);
    } catch (const PeerFailed&) {  // who tells of it; this rank's are aborted
    } catch (const std::exception& e) {
      log::warn("{}", e.what());
    }
  }
  job_.of_rank_->comms.erase(this);
}

void NcclComm::settle() {
  const auto start = Clock::now();
  auto looked = start;
  for (int tries = 0;; ++tries) {
    ncclResult_t state = ncclSuccess;
    job_.take(ncclCommGetAsyncError(comm_, &state), call_, comm_);
    job_.take(state, call_, comm_);
    if (state == ncclSuccess) return;
    if (tries < 1000) {
      std::this_thread::yield();
      continue;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    const auto now = Clock::now();
    if (now - looked < std::chrono::milliseconds(10)) continue;
    looked = now;
    job_.still_waiting(call_, std::chrono::duration<double>(now - start).count());
  }
}

void NcclComm::look() {
  if (comm_ == nullptr) return;
  ncclResult_t state = ncclSuccess;
  job_.take(ncclCommGetAsyncError(comm_, &state), call_, comm_);
  job_.take(state, call_, comm_);
}

void NcclComm::abort() noexcept {
  if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
}

}  // namespace tessera
