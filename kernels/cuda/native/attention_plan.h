// Attention of one shape as cuDNN compiles it: the problem as plain values, and its plan.
//
// A problem says all that a plan depends on, so problems are the keys of a cache. Nothing here reads tensors:
// a plan can be built, and its workspace known, where the GPU is only described (see cudnn.h).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tessera::cuda {

// In elements, of rows of the batch, positions and heads; elements of a head are neighbours.
struct AttentionStrides {
  std::int64_t row = 0, position = 0, head = 0;
  auto operator<=>(const AttentionStrides&) const = default;
};

// As AttentionInputs says, bf16 throughout, the log-sum-exp f32.
struct AttentionProblem {
  bool backward = false;
  bool deterministic = true;  // of a backward; forward always is
  std::int64_t batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, head_size = 0;
  std::int64_t window = 0;  // 0: none
  bool documents = false;
  std::int64_t document_row = 0, document_position = 0;  // strides of doc_start
  float scale = 1;
  AttentionStrides q, k, v;
  AttentionStrides out;        // of out, dout and dq
  AttentionStrides gradients;  // of dk and dv

  auto operator<=>(const AttentionProblem&) const = default;
  std::string text() const;  // "attention backward 4x4096x4096, heads 32/8 of 128, window 1024, documents"
};

// Device addresses; those a problem has no use for may be null.
struct AttentionTensors {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* doc_start = nullptr;
  void* out = nullptr;  // read by a backward, as lse is
  void* lse = nullptr;  // [batch, heads, queries], packed
  const void* dout = nullptr;
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
};

}  // namespace tessera::cuda
