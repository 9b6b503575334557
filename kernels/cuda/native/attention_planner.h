// The attention plans of a device, by problem, each cut into slices that fit the workspace allowed.
//
// Knows cuDNN and sizes, no tensors: where a GPU is only described, it says all that it would say on one.
// The rank's thread only.
#pragma once

#include <map>
#include <memory>

#include "kernels/cuda/native/attention_slices.h"
#include "kernels/cuda/native/cudnn.h"

namespace tessera::cuda {

// What TESSERA_ATTENTION_WORKSPACE allows, in bytes; 4 GiB where it is not set. Throws Error for what is no
// number of MiB.
std::size_t attention_workspace_budget();

class AttentionPlanner {
 public:
  AttentionPlanner(std::unique_ptr<Cudnn> cudnn, std::size_t budget)
      : cudnn_(std::move(cudnn)), budget_(budget) {}

  struct Planned {
    AttentionSlices slices;
    std::unique_ptr<AttentionPlan> plan;  // of a slice
  };
  // Made when first asked for, in half a second or some. Throws Error where the smallest slice needs more
  // than is allowed: how much, and what to do.
  const Planned& of(const AttentionProblem& problem);

 private:
  [[noreturn]] void refuse(const AttentionProblem& problem) const;

  std::unique_ptr<Cudnn> cudnn_;
  std::size_t budget_;
  bool said_any_order_ = false;
  std::map<AttentionProblem, Planned> plans_;
};

}  // namespace tessera::cuda
