// Attention through cuDNN: the candidates "cudnn" and "cudnn_any_order" of the attention slots.
//
// Takes bf16, heads of a multiple of 8 up to 256 elements, a key length that is a multiple of 128
// (cuDNN 9.19's backward gives NaN for some others), 16-byte aligned rows; backward also more than one query
// (it gives NaN for one). "cudnn" gives the same bits every time. Its backward's workspace grows with the
// square of the length, so it runs in slices of the batch and of KV heads within TESSERA_ATTENTION_WORKSPACE
// MiB (4096). "cudnn_any_order" needs less and is faster; the order of its sums, and so the last bits, vary:
// it runs only where `kernels: {attention_backward: cudnn_any_order}` asks for it. Document masks are
// compared inside the kernel, which then computes masked scores too: about twice the work of a plain causal
// mask, but no mask in memory, and any documents.
//
// The rank's thread only, on the device's own stream.
#pragma once

#include <memory>

#include "core/ops/attention.h"
#include "kernels/cuda/native/attention_plan.h"

namespace tessera::cuda {

class Attention {
 public:
  explicit Attention(Device& device);
  ~Attention();
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  // Plans the problem when it is first met, which takes about half a second and not during the capture of a
  // graph. Throws Error where a single slice needs more than the workspace allowed, saying what to do: a dry
  // run on meta asks too, so that a run says it before its first step.
  std::size_t workspace_bytes(const AttentionProblem& problem);
  void run(const AttentionProblem& problem, const AttentionTensors& tensors, Workspace workspace);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The device's own, made when first asked for. `device` must be a cuda Device.
Attention& attention_of(Device& device);

}  // namespace tessera::cuda
