// Attention by a plain kernel: the reference for tensor-core candidates, and what stands in, with a warning,
// where they cannot run.
//
// Tiles of 32 queries by 32 keys in shared memory, all sums fp32 and of fixed order.
#include "core/ops/attention.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int tile = 32;
constexpr int threads = 128;

struct Strides {
  std::int64_t b, s, h;
};
struct Sizes {
  std::int64_t batch, queries, keys, heads, kv_heads, dh, window, doc_b, doc_s;
  float scale;
  Strides q, k, v;
};

Strides strides(const Tensor& x) {
  return {x.stride(0), x.stride(1), x.stride(2)};
}
Sizes sizes(const AttentionInputs& in) {
  const bool documents = in.doc_start.defined();
  return {in.q.size(0),
          in.q.size(1),
          in.k.size(1),
          in.q.size(2),
          in.k.size(2),
          in.q.size(3),
          in.window,
          documents ? in.doc_start.stride(0) : 0,
          documents ? in.doc_start.stride(1) : 0,
          in.scale,
          strides(in.q),
          strides(in.k),
          strides(in.v)};
}
Strides contiguous(std::int64_t length, std::int64_t heads, std::int64_t dh) {
  return {length * heads * dh, heads * dh, dh};
}
std::int64_t tiles(std::int64_t n) {
  return (n + tile - 1) / tile;
}

__device__ std::int64_t position(const Sizes& n, std::int64_t i) {
  return n.keys - n.queries + i;
}
__device__ std::int64_t first_key(const Sizes& n, const std::int32_t* doc, std::int64_t b, std::int64_t i) {
  std::int64_t first = 0;
  if (n.window > 0 && position(n, i) - n.window + 1 > 0) first = position(n, i) - n.window + 1;
  if (doc != nullptr) {
    const std::int64_t start = doc[b * n.doc_b + i * n.doc_s];
    if (start > first) first = start;
  }
  return first;
}
__device__ std::int64_t first_key_of_tile(const Sizes& n, const std::int32_t* doc, std::int64_t b,
                                          std::int64_t q0) {
  std::int64_t first = n.keys;
  for (std::int64_t i = q0; i < q0 + tile && i < n.queries; ++i) {
    const std::int64_t key = first_key(n, doc, b, i);
    if (key < first) first = key;
  }
  return first;
}
__device__ bool sees(const Sizes& n, const std::int32_t* doc, std::int64_t b, std::int64_t i,
                     std::int64_t j) {
  return i < n.queries && j <= position(n, i) && j >= first_key(n, doc, b, i);
}

// Rows of a tile lie dh + 1 apart, so that a warp's reads of a column fall in different banks.
template <class T>
__device__ void gather(const T* x, Strides at, std::int64_t b, std::int64_t h, std::int64_t begin,
                       std::int64_t length, std::int64_t dh, float factor, Shared<float> to) {
  for (std::int64_t e = thread_index(); e < tile * dh; e += thread_count()) {
    const std::int64_t i = begin + e / dh;
    const std::int64_t d = e % dh;
    to[e / dh * (dh + 1) + d] = i < length ? factor * to_float(x[b * at.b + i * at.s + h * at.h + d]) : 0.0F;
  }
}
template <class T>
__device__ void scatter(Shared<float> from, T* x, Strides at, std::int64_t b, std::int64_t h,
                        std::int64_t begin, std::int64_t length, std::int64_t dh, float factor) {
  for (std::int64_t e = thread_index(); e < tile * dh; e += thread_count()) {
    const std::int64_t i = begin + e / dh;
    const float value = from[e / dh * (dh + 1) + e % dh];
    if (i < length) x[b * at.b + i * at.s + h * at.h + e % dh] = T(factor * value);
  }
}
__device__ void clear(Shared<float> x, std::int64_t n) {
  for (std::int64_t e = thread_index(); e < n; e += thread_count()) x[e] = 0;
}
__device__ float dot(Shared<float> x, Shared<float> y, std::int64_t n) {
  float sum = 0;
  for (std::int64_t d = 0; d < n; ++d) {
    const float a = x[d];
    const float b = y[d];
    sum += a * b;
  }
  return sum;
}
// to[r] += Σ_c p(r, c) from[c], where p(r, c) = p[r · row + c · column].
__device__ void add_product(Shared<float> p, int row, int column, Shared<float> from, Shared<float> to,
                            std::int64_t dh) {
  for (std::int64_t e = thread_index(); e < tile * dh; e += thread_count()) {
    const std::int64_t r = e / dh;
    const std::int64_t d = e % dh;
    float sum = to[r * (dh + 1) + d];
    for (int c = 0; c < tile; ++c) {
      const float weight = p[r * row + c * column];
      const float value = from[c * (dh + 1) + d];
      sum += weight * value;
    }
    to[r * (dh + 1) + d] = sum;
  }
}

// A block is one (row, query head, tile of queries). Reads q, and k and v once for each tile of queries.
template <class T>
__global__ void forward(const T* q, const T* k, const T* v, const std::int32_t* doc, T* out, float* lse,
                        Sizes n) {
  const std::int64_t width = tile * (n.dh + 1);
  SharedArena arena;
  const Shared<float> sq = arena.array<float>(width);
  const Shared<float> sk = arena.array<float>(width);
  const Shared<float> sv = arena.array<float>(width);
  const Shared<float> so = arena.array<float>(width);
  const Shared<float> p = arena.array<float>(tile * tile);
  const Shared<float> top = arena.array<float>(tile);
  const Shared<float> total = arena.array<float>(tile);
  const std::int64_t per_head = (n.queries + tile - 1) / tile;
  const std::int64_t q0 = block_index() % per_head * tile;
  const std::int64_t h = block_index() / per_head % n.heads;
  const std::int64_t b = block_index() / per_head / n.heads;
  const std::int64_t kv = h / (n.heads / n.kv_heads);
  gather(q, n.q, b, h, q0, n.queries, n.dh, n.scale, sq);
  clear(so, width);
  if (thread_index() < tile) {
    top[thread_index()] = -INFINITY;
    total[thread_index()] = 0;
  }
  const std::int64_t end = position(n, q0 + tile < n.queries ? q0 + tile : n.queries);
  for (std::int64_t k0 = first_key_of_tile(n, doc, b, q0) / tile * tile; k0 < end; k0 += tile) {
    sync_threads();
    gather(k, n.k, b, kv, k0, n.keys, n.dh, 1, sk);
    gather(v, n.v, b, kv, k0, n.keys, n.dh, 1, sv);
    sync_threads();
    for (int i = warp_index(); i < tile; i += warp_count()) {
      const bool seen = sees(n, doc, b, q0 + i, k0 + lane_index());
      const float score = seen ? dot(sq + i * (n.dh + 1), sk + lane_index() * (n.dh + 1), n.dh) : -INFINITY;
      const float before = top[i];
      const float now = std::fmax(before, warp_max(score));
      const float mine = seen ? std::exp(score - now) : 0.0F;
      const float rescale = before == -INFINITY ? 0.0F : std::exp(before - now);
      const float sum = warp_sum(mine);
      const float old_total = total[i];
      sync_warp();
      p[i * tile + lane_index()] = mine;
      if (lane_index() == 0) {
        top[i] = now;
        total[i] = old_total * rescale + sum;
      }
      for (std::int64_t d = lane_index(); d < n.dh; d += warp_size) {
        const float value = so[i * (n.dh + 1) + d];
        so[i * (n.dh + 1) + d] = value * rescale;
      }
    }
    sync_threads();
    add_product(p, tile, 1, sv, so, n.dh);
  }
  sync_threads();
  for (int i = warp_index(); i < tile; i += warp_count()) {
    if (q0 + i >= n.queries) continue;
    const float largest = top[i];
    const float sum = total[i];
    if (lane_index() == 0) lse[(b * n.heads + h) * n.queries + q0 + i] = largest + std::log(sum);
    const float inverse = 1.0F / sum;
    for (std::int64_t d = lane_index(); d < n.dh; d += warp_size) {
      const float value = so[i * (n.dh + 1) + d];
      out[((b * n.queries + q0 + i) * n.heads + h) * n.dh + d] = T(value * inverse);
    }
  }
}

std::size_t shared_bytes(std::int64_t dh, int wide, int squares, int rows) {
  return static_cast<std::size_t>(wide) * shared_size<float>(tile * (dh + 1)) +
         static_cast<std::size_t>(squares) * shared_size<float>(tile * tile) +
         static_cast<std::size_t>(rows) * shared_size<float>(tile);
}

bool fits(const AttentionInputs& in) {
  return in.q.size(3) <= 256;
}
bool can_run_forward(const AttentionForward& args) {
  return fits(args.in);
}

void run_forward(const AttentionForward& args, Workspace) {
  const Sizes n = sizes(args.in);
  const std::int32_t* doc = args.in.doc_start.defined() ? args.in.doc_start.data<std::int32_t>() : nullptr;
  visit(args.in.q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    launch(args.lse.device().stream(), forward<T>,
           {n.batch * n.heads * tiles(n.queries), threads, shared_bytes(n.dh, 4, 1, 2)}, args.in.q.data<T>(),
           args.in.k.data<T>(), args.in.v.data<T>(), doc, args.out.data<T>(), args.lse.data<float>(), n);
  });
}

// delta[b, h, i] = Σ_d dout · out: a warp each. Reads both once.
template <class T>
__global__ void row_dots(const T* out, const T* dout, float* delta, Sizes n) {
  const std::int64_t rows = n.batch * n.queries * n.heads;
  const std::int64_t row = block_index() * warp_count() + warp_index();
  if (row >= rows) return;
  float sum = 0;
  for (std::int64_t d = lane_index(); d < n.dh; d += warp_size)
    sum += to_float(out[row * n.dh + d]) * to_float(dout[row * n.dh + d]);
  sum = warp_sum(sum);
  const std::int64_t i = row / n.heads % n.queries;
  const std::int64_t b = row / n.heads / n.queries;
  if (lane_index() == 0) delta[(b * n.heads + row % n.heads) * n.queries + i] = sum;
}

// p = exp(q · k − lse) and ds = p (dout · v − delta) of a tile; zero where a query does not see a key.
__device__ void score_gradients(const Sizes& n, const std::int32_t* doc, std::int64_t b, std::int64_t h,
                                std::int64_t q0, std::int64_t k0, const float* lse, const float* delta,
                                Shared<float> sq, Shared<float> sdo, Shared<float> sk, Shared<float> sv,
                                Shared<float> p, Shared<float> ds) {
  for (int e = thread_index(); e < tile * tile; e += thread_count()) {
    const int i = e / tile;
    const int j = e % tile;
    float weight = 0;
    float gradient = 0;
    if (sees(n, doc, b, q0 + i, k0 + j)) {
      const std::int64_t row = (b * n.heads + h) * n.queries + q0 + i;
      weight = std::exp(dot(sq + i * (n.dh + 1), sk + j * (n.dh + 1), n.dh) - lse[row]);
      gradient = weight * (dot(sdo + i * (n.dh + 1), sv + j * (n.dh + 1), n.dh) - delta[row]);
    }
    p[e] = weight;
    ds[e] = gradient;
  }
}

// A block is one (row, query head, tile of queries): dq = scale Σ ds k.
template <class T>
__global__ void backward_queries(const T* q, const T* k, const T* v, const std::int32_t* doc, const T* dout,
                                 const float* lse, const float* delta, T* dq, Sizes n, Strides dense) {
  const std::int64_t width = tile * (n.dh + 1);
  SharedArena arena;
  const Shared<float> sq = arena.array<float>(width);
  const Shared<float> sdo = arena.array<float>(width);
  const Shared<float> sk = arena.array<float>(width);
  const Shared<float> sv = arena.array<float>(width);
  const Shared<float> sdq = arena.array<float>(width);
  const Shared<float> p = arena.array<float>(tile * tile);
  const Shared<float> ds = arena.array<float>(tile * tile);
  const std::int64_t per_head = (n.queries + tile - 1) / tile;
  const std::int64_t q0 = block_index() % per_head * tile;
  const std::int64_t h = block_index() / per_head % n.heads;
  const std::int64_t b = block_index() / per_head / n.heads;
  const std::int64_t kv = h / (n.heads / n.kv_heads);
  gather(q, n.q, b, h, q0, n.queries, n.dh, n.scale, sq);
  gather(dout, dense, b, h, q0, n.queries, n.dh, 1, sdo);
  clear(sdq, width);
  const std::int64_t end = position(n, q0 + tile < n.queries ? q0 + tile : n.queries);
  for (std::int64_t k0 = first_key_of_tile(n, doc, b, q0) / tile * tile; k0 < end; k0 += tile) {
    sync_threads();
    gather(k, n.k, b, kv, k0, n.keys, n.dh, 1, sk);
    gather(v, n.v, b, kv, k0, n.keys, n.dh, 1, sv);
    sync_threads();
    score_gradients(n, doc, b, h, q0, k0, lse, delta, sq, sdo, sk, sv, p, ds);
    sync_threads();
    add_product(ds, tile, 1, sk, sdq, n.dh);
  }
  sync_threads();
  scatter(sdq, dq, dense, b, h, q0, n.queries, n.dh, n.scale);
}

// A block is one (row, KV head, tile of keys), over the heads of its group and their queries in order:
// dv = Σ pᵀ dout, dk = Σ dsᵀ q · scale.
template <class T>
__global__ void backward_keys(const T* q, const T* k, const T* v, const std::int32_t* doc, const T* dout,
                              const float* lse, const float* delta, T* dk, T* dv, Sizes n, Strides dense,
                              Strides dense_kv) {
  const std::int64_t width = tile * (n.dh + 1);
  SharedArena arena;
  const Shared<float> sq = arena.array<float>(width);
  const Shared<float> sdo = arena.array<float>(width);
  const Shared<float> sk = arena.array<float>(width);
  const Shared<float> sv = arena.array<float>(width);
  const Shared<float> sdk = arena.array<float>(width);
  const Shared<float> sdv = arena.array<float>(width);
  const Shared<float> p = arena.array<float>(tile * tile);
  const Shared<float> ds = arena.array<float>(tile * tile);
  const std::int64_t per_head = (n.keys + tile - 1) / tile;
  const std::int64_t k0 = block_index() % per_head * tile;
  const std::int64_t kv = block_index() / per_head % n.kv_heads;
  const std::int64_t b = block_index() / per_head / n.kv_heads;
  const std::int64_t group = n.heads / n.kv_heads;
  gather(k, n.k, b, kv, k0, n.keys, n.dh, 1, sk);
  gather(v, n.v, b, kv, k0, n.keys, n.dh, 1, sv);
  clear(sdk, width);
  clear(sdv, width);
  for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h)
    for (std::int64_t q0 = 0; q0 < n.queries; q0 += tile) {
      if (position(n, q0 + tile - 1) < k0 || first_key_of_tile(n, doc, b, q0) >= k0 + tile) continue;
      sync_threads();
      gather(q, n.q, b, h, q0, n.queries, n.dh, n.scale, sq);
      gather(dout, dense, b, h, q0, n.queries, n.dh, 1, sdo);
      sync_threads();
      score_gradients(n, doc, b, h, q0, k0, lse, delta, sq, sdo, sk, sv, p, ds);
      sync_threads();
      add_product(p, 1, tile, sdo, sdv, n.dh);
      add_product(ds, 1, tile, sq, sdk, n.dh);
    }
  sync_threads();
  scatter(sdk, dk, dense_kv, b, kv, k0, n.keys, n.dh, 1);
  scatter(sdv, dv, dense_kv, b, kv, k0, n.keys, n.dh, 1);
}

std::size_t backward_workspace(const AttentionBackward& args) {
  return static_cast<std::size_t>(args.lse.numel()) * sizeof(float);
}
bool can_run_backward(const AttentionBackward& args) {
  return fits(args.in);
}

void run_backward(const AttentionBackward& args, Workspace workspace) {
  const Sizes n = sizes(args.in);
  const std::int32_t* doc = args.in.doc_start.defined() ? args.in.doc_start.data<std::int32_t>() : nullptr;
  auto* delta = static_cast<float*>(workspace.address);
  const Strides dense = contiguous(n.queries, n.heads, n.dh);
  const Strides dense_kv = contiguous(n.keys, n.kv_heads, n.dh);
  Stream& stream = args.lse.device().stream();
  visit(args.in.q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    launch(stream, row_dots<T>, {(n.batch * n.queries * n.heads + 3) / 4, threads, 0}, args.out.data<T>(),
           args.dout.data<T>(), delta, n);
    launch(stream, backward_queries<T>,
           {n.batch * n.heads * tiles(n.queries), threads, shared_bytes(n.dh, 5, 2, 0)}, args.in.q.data<T>(),
           args.in.k.data<T>(), args.in.v.data<T>(), doc, args.dout.data<T>(), args.lse.data<float>(), delta,
           args.dq.data<T>(), n, dense);
    launch(stream, backward_keys<T>,
           {n.batch * n.kv_heads * tiles(n.keys), threads, shared_bytes(n.dh, 6, 2, 0)}, args.in.q.data<T>(),
           args.in.k.data<T>(), args.in.v.data<T>(), doc, args.dout.data<T>(), args.lse.data<float>(), delta,
           args.dk.data<T>(), args.dv.data<T>(), n, dense, dense_kv);
  });
}

const Register<AttentionForward> register_forward(attention_forward_kernel(), {.device = DeviceKind::cuda,
                                                                               .name = "plain",
                                                                               .run = run_forward,
                                                                               .can_run = can_run_forward,
                                                                               .on_request = true,
                                                                               .stands_in = true});

const Register<AttentionBackward> register_backward(attention_backward_kernel(),
                                                    {.device = DeviceKind::cuda,
                                                     .name = "plain",
                                                     .run = run_backward,
                                                     .can_run = can_run_backward,
                                                     .workspace_bytes = backward_workspace,
                                                     .on_request = true,
                                                     .stands_in = true});

}  // namespace
}  // namespace tessera::cuda
