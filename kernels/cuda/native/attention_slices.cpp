#include "kernels/cuda/native/attention_slices.h"

#include <fmt/core.h>

#include <cassert>

namespace tessera::cuda {
namespace {

constexpr std::int64_t bf16_bytes = 2;
constexpr std::int64_t word_bytes = 4;  // of doc_start and the log-sum-exp
constexpr std::int64_t alignment = 16;  // of every tensor a plan takes

// What a deterministic backward keeps at least.
std::size_t score_bytes(const AttentionProblem& n) {
  return static_cast<std::size_t>(bf16_bytes * n.batch * n.heads * n.queries * n.keys);
}

// Whether so many KV heads of a row make slices, whose tensors are aligned.
bool divide(const AttentionProblem& whole, std::int64_t kv_heads) {
  const std::int64_t lse_of_group = word_bytes * whole.queries * (whole.heads / whole.kv_heads);
  return kv_heads == whole.kv_heads ||
         (whole.kv_heads % kv_heads == 0 && kv_heads * lse_of_group % alignment == 0);
}

template <class T>
T* after(T* address, std::int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return address == nullptr ? nullptr : static_cast<Byte*>(address) + bytes;
}

}  // namespace

std::string AttentionProblem::text() const {
  return fmt::format("attention {} {}x{}x{}, heads {}/{} of {}{}{}{}", backward ? "backward" : "forward",
                     batch, queries, keys, heads, kv_heads, head_size,
                     window > 0 ? fmt::format(", window {}", window) : "", documents ? ", documents" : "",
                     backward && !deterministic ? ", any order" : "");
}

AttentionProblem slice_of(const AttentionProblem& whole, const AttentionSlices& slices) {
  AttentionProblem slice = whole;
  slice.batch = slices.rows;
  slice.kv_heads = slices.kv_heads;
  slice.heads = whole.heads / whole.kv_heads * slices.kv_heads;
  return slice;
}

AttentionSlices smallest_slices(const AttentionProblem& whole) {
  std::int64_t kv_heads = 1;
  while (!divide(whole, kv_heads)) ++kv_heads;
  return {1, kv_heads};
}

std::optional<AttentionSlices> fit_slices(
    const AttentionProblem& whole, std::size_t budget,
    const std::function<std::size_t(const AttentionProblem&)>& workspace_bytes) {
  const auto fits = [&](const AttentionSlices& slices) {
    const AttentionProblem slice = slice_of(whole, slices);
    if (whole.backward && whole.deterministic && score_bytes(slice) > budget) return false;
    return workspace_bytes(slice) <= budget;
  };
  for (std::int64_t rows = whole.batch; rows >= 1; --rows)
    if (const AttentionSlices slices{rows, whole.kv_heads}; whole.batch % rows == 0 && fits(slices))
      return slices;
  for (std::int64_t kv_heads = whole.kv_heads - 1; kv_heads >= 1; --kv_heads)
    if (const AttentionSlices slices{1, kv_heads}; divide(whole, kv_heads) && fits(slices)) return slices;
  return {};
}

void for_each_slice(const AttentionProblem& whole, const AttentionSlices& slices,
                    const AttentionTensors& tensors,
                    const std::function<void(const AttentionTensors&)>& run) {
  assert(whole.batch % slices.rows == 0 && whole.kv_heads % slices.kv_heads == 0);
  assert(slices.rows == 1 || slices.kv_heads == whole.kv_heads);
  const std::int64_t share = whole.heads / whole.kv_heads;
  for (std::int64_t row = 0; row < whole.batch; row += slices.rows)
    for (std::int64_t group = 0; group < whole.kv_heads; group += slices.kv_heads) {
      const auto at = [&](const AttentionStrides& strides, std::int64_t head) {
        return bf16_bytes * (row * strides.row + head * strides.head);
      };
      const std::int64_t head = group * share;
      AttentionTensors slice;
      slice.q = after(tensors.q, at(whole.q, head));
      slice.k = after(tensors.k, at(whole.k, group));
      slice.v = after(tensors.v, at(whole.v, group));
      slice.doc_start = after(tensors.doc_start, word_bytes * row * whole.document_row);
      slice.out = after(tensors.out, at(whole.out, head));
      slice.lse = after(tensors.lse, word_bytes * (row * whole.heads + head) * whole.queries);
      slice.dout = after(tensors.dout, at(whole.out, head));
      slice.dq = after(tensors.dq, at(whole.out, head));
      slice.dk = after(tensors.dk, at(whole.gradients, group));
      slice.dv = after(tensors.dv, at(whole.gradients, group));
      run(slice);
    }
}

}  // namespace tessera::cuda
