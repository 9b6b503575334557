// NCCL's communicators as objects that clean up after themselves, and what those of a rank share.
//
// The rank's thread only. The only header through which Tessera knows NCCL.
#pragma once

#include <nccl.h>

#include <exception>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "core/base/dtype.h"
#include "core/tensor/device.h"

namespace tessera {

class NcclComm;

// What a rank, which is a thread, has of NCCL. One failure ends all its communicators: any of them may wait
// for a rank that will not come. They end together, since the end of one frees memory, for which CUDA waits
// until the GPU is idle, and so for the kernels of the others.
struct NcclRank {
  std::set<NcclComm*> comms;
  std::exception_ptr failure;
  void abort_all() noexcept;
};

// Communicators of one device, and how its waits are looked after.
class NcclJob {
 public:
  // Throws where a rank that has waited in `call` for so many seconds must not go on.
  using StillWaiting = std::function<void(const std::string& call, double seconds)>;
  // The device outlives the job, which looks after waits for it. `rank`: of all, for messages.
  NcclJob(int rank, Device& device, StillWaiting still_waiting);
  ~NcclJob();
  NcclJob(const NcclJob&) = delete;
  NcclJob& operator=(const NcclJob&) = delete;

  Device& device() const { return device_; }
  bool failed() const { return of_rank_->failure != nullptr; }
  // Throws again what the rank failed of, if it has.
  void throw_if_failed() const;
  // For an answer of NCCL in `call`: throws, and aborts, unless it is success or "in progress".
  void take(ncclResult_t result, const std::string& call, ncclComm_t comm = nullptr);
  // This rank has waited for so long in `call`: throws, and aborts, if it must not go on.
  void still_waiting(const std::string& call, double seconds);

 private:
  friend class NcclComm;
  [[noreturn]] void fail_with(std::exception_ptr cause);
  void look(double seconds);

  int rank_;
  Device& device_;
  StillWaiting still_waiting_;
  std::shared_ptr<NcclRank> of_rank_;
  std::string last_call_ = "its work";
};

class NcclComm {
 public:
  // Begins to make it; collective over its ranks, who share `id`. To be used once settle() has returned.
  NcclComm(NcclJob& job, const ncclUniqueId& id, int size, int rank);
  // Waits for its calls to end, with the other ranks; aborts instead where the rank fails.
  ~NcclComm();
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  ncclComm_t get() const { return comm_; }
  // Asks NCCL for something and waits until it has taken it, which is not until it is done.
  template <class Ask>
  void ask(const std::string& call, Ask ask_nccl) {
    begin(call, ask_nccl);
    settle();
  }
  // The same, without the wait: settle() must come before anything else is asked.
  template <class Ask>
  void begin(const std::string& call, Ask ask_nccl) {
    job_.throw_if_failed();
    call_ = job_.last_call_ = call;
    job_.take(ask_nccl(), call_, comm_);
  }
  void settle();
  // Throws for an error that was reported late.
  void look();

 private:
  friend struct NcclRank;
  void abort() noexcept;

  NcclJob& job_;
  ncclComm_t comm_ = nullptr;
  std::string call_ = "making a communicator";
  int exceptions_ = std::uncaught_exceptions();
};

// Of several answers, the one that tells most: a failure, else "in progress", else success.
ncclResult_t worse(ncclResult_t a, ncclResult_t b);
// The stream, as NCCL takes it.
cudaStream_t native(Stream& stream);
// NCCL's type of these elements; bytes for those that it only moves.
ncclDataType_t nccl_type(DType dtype);

}  // namespace tessera
