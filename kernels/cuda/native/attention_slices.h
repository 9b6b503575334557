// Attention in parts, where the workspace of the whole does not fit: rows of the batch, and of a single row
// groups of query heads with the KV head they share.
//
// Deterministic backward plans keep a score matrix for every head, 2 · batch · heads · queries · keys bytes.
// Rows and groups share no output, so a slice writes what the whole would. Plain arithmetic: any thread.
#pragma once

#include <functional>
#include <optional>

#include "kernels/cuda/native/attention_plan.h"

namespace tessera::cuda {

struct AttentionSlices {
  std::int64_t rows = 0;      // of a slice; divides the batch
  std::int64_t kv_heads = 0;  // of a slice; divides the KV heads, all of them where rows > 1
};

// The problem of one slice.
AttentionProblem slice_of(const AttentionProblem& whole, const AttentionSlices& slices);

// One row, and as few KV heads as leave every slice's tensors aligned.
AttentionSlices smallest_slices(const AttentionProblem& whole);

// The largest slices whose workspace, which `workspace_bytes` tells of a slice's problem, is within `budget`;
// nothing if the smallest need more. Asks about few slices: each may cost a plan.
std::optional<AttentionSlices> fit_slices(
    const AttentionProblem& whole, std::size_t budget,
    const std::function<std::size_t(const AttentionProblem&)>& workspace_bytes);

// Calls run(tensors of the slice) for every slice, in order.
void for_each_slice(const AttentionProblem& whole, const AttentionSlices& slices,
                    const AttentionTensors& tensors, const std::function<void(const AttentionTensors&)>& run);

}  // namespace tessera::cuda
