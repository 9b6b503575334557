// Blocked attention: a pair of query and key blocks at a time, products by oneDNN on fp32 copies, online
// softmax.
//
// One task is one (row, KV head) with all the query heads of its group, so the sums into dk and dv have one
// order.

#include "core/ops/attention.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t block = 128;

struct Sizes {
  std::int64_t batch, queries, length, heads, kv_heads, dh, group;
  explicit Sizes(const AttentionInputs& in)
      : batch(in.q.size(0)),
        queries(in.q.size(1)),
        length(in.k.size(1)),
        heads(in.q.size(2)),
        kv_heads(in.k.size(2)),
        dh(in.q.size(3)),
        group(heads / kv_heads) {}
};

// Rows [begin, begin + count) of one head of x [B, S, n, dh], times `factor`, as fp32 [count, dh].
template <class T>
void gather(const Tensor& x, std::int64_t b, std::int64_t head, std::int64_t begin, std::int64_t count,
            float factor, float* out) {
  const std::int64_t dh = x.size(3);
  for (std::int64_t i = 0; i < count; ++i) {
    const T* row = x.data<T>() + b * x.stride(0) + (begin + i) * x.stride(1) + head * x.stride(2);
    for (std::int64_t d = 0; d < dh; ++d) out[i * dh + d] = factor * cpu::load(row[d]);
  }
}

// Writes fp32 [count, dh] to one head of contiguous x.
template <class T>
void scatter(const float* values, const Tensor& x, std::int64_t b, std::int64_t head, std::int64_t begin,
             std::int64_t count, float factor) {
  const std::int64_t dh = x.size(3);
  for (std::int64_t i = 0; i < count; ++i) {
    T* row = x.data<T>() + b * x.stride(0) + (begin + i) * x.stride(1) + head * x.stride(2);
    for (std::int64_t d = 0; d < dh; ++d) row[d] = T(factor * values[i * dh + d]);
  }
}

// Where query i stands among the keys.
std::int64_t position(const AttentionInputs& in, std::int64_t i) {
  return in.k.size(1) - in.q.size(1) + i;
}

// The first key that query i of row b sees.
std::int64_t first_key(const AttentionInputs& in, std::int64_t b, std::int64_t i) {
  std::int64_t first = in.window > 0 ? std::max<std::int64_t>(0, position(in, i) - in.window + 1) : 0;
  if (in.doc_start.defined())
    first = std::max<std::int64_t>(
        first, in.doc_start.data<std::int32_t>()[b * in.doc_start.stride(0) + i * in.doc_start.stride(1)]);
  return first;
}

std::int64_t first_key_of_block(const AttentionInputs& in, std::int64_t b, std::int64_t begin,
                                std::int64_t count) {
  std::int64_t first = position(in, begin);
  for (std::int64_t i = 0; i < count; ++i) first = std::min(first, first_key(in, b, begin + i));
  return first;
}

// Keys [k0, k0 + keys) that query i sees, as [from, to) within the block.
struct Visible {
  std::int64_t from, to;
};
Visible visible(const AttentionInputs& in, std::int64_t b, std::int64_t i, std::int64_t k0,
                std::int64_t keys) {
  const std::int64_t to = std::clamp<std::int64_t>(position(in, i) + 1 - k0, 0, keys);
  return {std::clamp<std::int64_t>(first_key(in, b, i) - k0, 0, to), to};
}

struct ForwardScratch {
  float *k, *v, *q, *scores, *out, *top, *total;
  static std::int64_t floats(const Sizes& s) {
    return 2 * s.length * s.dh + 2 * block * s.dh + block * block + 2 * block;
  }
  ForwardScratch(float* base, const Sizes& s)
      : k(base),
        v(k + s.length * s.dh),
        q(v + s.length * s.dh),
        scores(q + block * s.dh),
        out(scores + block * block),
        top(out + block * s.dh),
        total(top + block) {}
};

// Scores of one block become probabilities relative to the rows' new maxima; earlier results are rescaled.
void softmax_block(const AttentionInputs& in, std::int64_t b, std::int64_t q0, std::int64_t rows,
                   std::int64_t k0, std::int64_t keys, const ForwardScratch& s, std::int64_t dh) {
  for (std::int64_t i = 0; i < rows; ++i) {
    float* scores = s.scores + i * keys;
    const auto [from, to] = visible(in, b, q0 + i, k0, keys);
    if (from == to) {
      std::fill_n(scores, keys, 0.0F);
      continue;
    }
    const float top = cpu::maximum(scores + from, to - from, s.top[i]);
    const float rescale = s.top[i] == -INFINITY ? 0.0F : cpu::exponential(s.top[i] - top);
    std::fill_n(scores, from, 0.0F);
    for (std::int64_t j = from; j < to; ++j) scores[j] = cpu::exponential(scores[j] - top);
    std::fill_n(scores + to, keys - to, 0.0F);
    s.total[i] =
        s.total[i] * rescale + cpu::sum(to - from, [p = scores + from](std::int64_t j) { return p[j]; });
    s.top[i] = top;
    if (rescale != 1.0F)
      for (std::int64_t d = 0; d < dh; ++d) s.out[i * dh + d] *= rescale;
  }
}

template <class T>
void forward_head(const AttentionForward& args, const Sizes& n, std::int64_t b, std::int64_t head,
                  const ForwardScratch& s) {
  for (std::int64_t q0 = 0; q0 < n.queries; q0 += block) {
    const std::int64_t rows = std::min(block, n.queries - q0);
    gather<T>(args.in.q, b, head, q0, rows, args.in.scale, s.q);
    std::fill_n(s.out, rows * n.dh, 0.0F);
    std::fill_n(s.top, rows, -INFINITY);
    std::fill_n(s.total, rows, 0.0F);
    const std::int64_t first = first_key_of_block(args.in, b, q0, rows) / block * block;
    for (std::int64_t k0 = first; k0 < position(args.in, q0 + rows); k0 += block) {
      const std::int64_t keys = std::min(block, n.length - k0);
      cpu::gemm_tile(false, true, rows, keys, n.dh, 1, s.q, n.dh, s.k + k0 * n.dh, n.dh, 0, s.scores, keys);
      softmax_block(args.in, b, q0, rows, k0, keys, s, n.dh);
      cpu::gemm_tile(false, false, rows, n.dh, keys, 1, s.scores, keys, s.v + k0 * n.dh, n.dh, 1, s.out,
                     n.dh);
    }
    float* lse = args.lse.data<float>() + (b * n.heads + head) * n.queries + q0;
    for (std::int64_t i = 0; i < rows; ++i) {
      lse[i] = s.top[i] + std::log(s.total[i]);
      const float inverse = 1.0F / s.total[i];
      for (std::int64_t d = 0; d < n.dh; ++d) s.out[i * n.dh + d] *= inverse;
    }
    scatter<T>(s.out, args.out, b, head, q0, rows, 1);
  }
}

std::size_t forward_workspace(const AttentionForward& args) {
  return static_cast<std::size_t>(args.lse.device().threads().size()) * sizeof(float) *
         static_cast<std::size_t>(ForwardScratch::floats(Sizes(args.in)));
}

void run_forward(const AttentionForward& args, Workspace workspace) {
  const Sizes n(args.in);
  args.lse.device().threads().parallel_for_slots(n.batch * n.kv_heads, [&](std::int64_t task, int slot) {
    const std::int64_t b = task / n.kv_heads;
    const std::int64_t kv = task % n.kv_heads;
    const ForwardScratch s(static_cast<float*>(workspace.address) + slot * ForwardScratch::floats(n), n);
    cpu::visit(args.in.q.dtype(), [&](auto tag) {
      using T = decltype(tag);
      gather<T>(args.in.k, b, kv, 0, n.length, 1, s.k);
      gather<T>(args.in.v, b, kv, 0, n.length, 1, s.v);
      for (std::int64_t head = kv * n.group; head < (kv + 1) * n.group; ++head)
        forward_head<T>(args, n, b, head, s);
    });
  });
}

struct BackwardScratch {
  float *k, *v, *dk, *dv, *q, *dout, *dq, *p, *dp, *delta;
  static std::int64_t floats(const Sizes& s) {
    return 4 * s.length * s.dh + 3 * block * s.dh + 2 * block * block + block;
  }
  BackwardScratch(float* base, const Sizes& s)
      : k(base),
        v(k + s.length * s.dh),
        dk(v + s.length * s.dh),
        dv(dk + s.length * s.dh),
        q(dv + s.length * s.dh),
        dout(q + block * s.dh),
        dq(dout + block * s.dh),
        p(dq + block * s.dh),
        dp(p + block * block),
        delta(dp + block * block) {}
};

// With P = exp(scores − lse): dV += Pᵀ dO; dS = P ⊙ (dO Vᵀ − δ), δ = rowsum(dO ⊙ O); dQ += dS K; dK += dSᵀ Q.
template <class T>
void backward_head(const AttentionBackward& args, const Sizes& n, std::int64_t b, std::int64_t head,
                   const BackwardScratch& s) {
  for (std::int64_t q0 = 0; q0 < n.queries; q0 += block) {
    const std::int64_t rows = std::min(block, n.queries - q0);
    const float* lse = args.lse.data<float>() + (b * n.heads + head) * n.queries + q0;
    gather<T>(args.out, b, head, q0, rows, 1, s.dq);
    gather<T>(args.dout, b, head, q0, rows, 1, s.dout);
    for (std::int64_t i = 0; i < rows; ++i)
      s.delta[i] = cpu::sum(
          n.dh, [o = s.dq + i * n.dh, g = s.dout + i * n.dh](std::int64_t d) { return o[d] * g[d]; });
    gather<T>(args.in.q, b, head, q0, rows, args.in.scale, s.q);
    std::fill_n(s.dq, rows * n.dh, 0.0F);
    const std::int64_t first = first_key_of_block(args.in, b, q0, rows) / block * block;
    for (std::int64_t k0 = first; k0 < position(args.in, q0 + rows); k0 += block) {
      const std::int64_t keys = std::min(block, n.length - k0);
      float* k = s.k + k0 * n.dh;
      cpu::gemm_tile(false, true, rows, keys, n.dh, 1, s.q, n.dh, k, n.dh, 0, s.p, keys);
      cpu::gemm_tile(false, true, rows, keys, n.dh, 1, s.dout, n.dh, s.v + k0 * n.dh, n.dh, 0, s.dp, keys);
      for (std::int64_t i = 0; i < rows; ++i) {
        float* __restrict p = s.p + i * keys;
        float* __restrict dp = s.dp + i * keys;
        const auto [from, to] = visible(args.in, b, q0 + i, k0, keys);
        std::fill_n(p, from, 0.0F);
        std::fill_n(dp, from, 0.0F);
        for (std::int64_t j = from; j < to; ++j) {
          p[j] = cpu::exponential(p[j] - lse[i]);
          dp[j] = p[j] * (dp[j] - s.delta[i]);
        }
        std::fill_n(p + to, keys - to, 0.0F);
        std::fill_n(dp + to, keys - to, 0.0F);
      }
      cpu::gemm_tile(true, false, keys, n.dh, rows, 1, s.p, keys, s.dout, n.dh, 1, s.dv + k0 * n.dh, n.dh);
      cpu::gemm_tile(false, false, rows, n.dh, keys, 1, s.dp, keys, k, n.dh, 1, s.dq, n.dh);
      cpu::gemm_tile(true, false, keys, n.dh, rows, 1, s.dp, keys, s.q, n.dh, 1, s.dk + k0 * n.dh, n.dh);
    }
    scatter<T>(s.dq, args.dq, b, head, q0, rows, args.in.scale);
  }
}

std::size_t backward_workspace(const AttentionBackward& args) {
  return static_cast<std::size_t>(args.lse.device().threads().size()) * sizeof(float) *
         static_cast<std::size_t>(BackwardScratch::floats(Sizes(args.in)));
}

void run_backward(const AttentionBackward& args, Workspace workspace) {
  const Sizes n(args.in);
  args.lse.device().threads().parallel_for_slots(n.batch * n.kv_heads, [&](std::int64_t task, int slot) {
    const std::int64_t b = task / n.kv_heads;
    const std::int64_t kv = task % n.kv_heads;
    const BackwardScratch s(static_cast<float*>(workspace.address) + slot * BackwardScratch::floats(n), n);
    cpu::visit(args.in.q.dtype(), [&](auto tag) {
      using T = decltype(tag);
      gather<T>(args.in.k, b, kv, 0, n.length, 1, s.k);
      gather<T>(args.in.v, b, kv, 0, n.length, 1, s.v);
      std::fill_n(s.dk, 2 * n.length * n.dh, 0.0F);
      for (std::int64_t head = kv * n.group; head < (kv + 1) * n.group; ++head)
        backward_head<T>(args, n, b, head, s);
      scatter<T>(s.dk, args.dk, b, kv, 0, n.length, 1);
      scatter<T>(s.dv, args.dv, b, kv, 0, n.length, 1);
    });
  });
}

const Register<AttentionForward> register_forward(attention_forward_kernel(),
                                                  {DeviceKind::cpu, "blocked", run_forward, nullptr,
                                                   forward_workspace});
const Register<AttentionBackward> register_backward(attention_backward_kernel(),
                                                    {DeviceKind::cpu, "blocked", run_backward, nullptr,
                                                     backward_workspace});

}  // namespace
}  // namespace tessera
