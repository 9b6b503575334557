// cuDNN, opened at run time, and the plans it makes of attention. The only place that knows its interface.
//
// The library is looked for as libcudnn.so.9 when a Cudnn is made, so that a program that never attends on a
// GPU starts without it. Throws Error where it is missing, older than 9.19 (whose backward passes have known
// faults), or refuses a problem. The rank's thread only.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "kernels/cuda/native/attention_plan.h"

namespace tessera::cuda {

class AttentionPlan {
 public:
  virtual ~AttentionPlan() = default;
  virtual std::size_t workspace_bytes() const = 0;
  // On the stream that its Cudnn was made with; `workspace` is 256-byte aligned.
  virtual void run(const AttentionTensors& tensors, void* workspace) const = 0;
};

class Cudnn {
 public:
  // For the current device; `sm` is its compute capability, 90 for Hopper.
  Cudnn(int sm, cudaStream_t stream);
  // For a GPU described in cuDNN's JSON, which need not be there: its plans have a size but cannot run.
  Cudnn(int sm, const std::string& description);
  ~Cudnn();
  Cudnn(const Cudnn&) = delete;
  Cudnn& operator=(const Cudnn&) = delete;

  std::string version() const;  // "9.19.0"
  // Takes about half a second. The plan must not outlive this.
  std::unique_ptr<AttentionPlan> plan(const AttentionProblem& problem) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera::cuda
