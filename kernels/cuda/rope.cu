// Rotary embedding: a thread per vector of pairs, or of dimensions that are copied.
#include "core/ops/rope.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

struct Sizes {
  std::int64_t tokens, heads, dh, width, token_stride, head_stride;
  float sign;
};

__device__ std::int64_t quotient(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  return a / b;
}

// w floats at a multiple of 16 bytes if w > 1.
template <int w>
__device__ void load_floats(const float* from, float (&to)[w]) {
  constexpr int step = w < 4 ? w : 4;
  for (int i = 0; i < w; i += step) {
    const Vector<float, step> x = load_vector<step>(from + i);
    for (int j = 0; j < step; ++j) to[i + j] = x.at[j];
  }
}

template <class T, int w>
__device__ void rotate(const T* x, const float* c, T* y, std::int64_t half, std::int64_t i, float sign) {
  const Vector<T, w> first = load_vector<w>(x + i);
  const Vector<T, w> second = load_vector<w>(x + half + i);
  float cosine[w];
  float sine[w];
  load_floats<w>(c + i, cosine);
  load_floats<w>(c + half + i, sine);
  Vector<T, w> to_first;
  Vector<T, w> to_second;
  for (int j = 0; j < w; ++j) {
    const float a = to_float(first.at[j]);
    const float b = to_float(second.at[j]);
    to_first.at[j] = T(a * cosine[j] - b * (sign * sine[j]));
    to_second.at[j] = T(b * cosine[j] + a * (sign * sine[j]));
  }
  store_vector(y + i, to_first);
  store_vector(y + half + i, to_second);
}

// Reads x, writes y: 4 heads · dh bytes per token in bf16, and the table's row once from memory.
template <class T, int w>
__global__ void rope_rows(const T* x, const float* table, const std::int32_t* positions, T* y, Sizes n) {
  const std::int64_t half = n.width / 2;
  const std::int64_t pairs = half / w;
  const std::int64_t items = pairs + (n.dh - n.width) / w;
  const std::int64_t total = n.tokens * n.heads * items;
  for (std::int64_t e = grid_index(); e < total; e += grid_stride()) {
    const std::int64_t row = quotient(e, items);
    const std::int64_t item = e - row * items;
    const std::int64_t token = quotient(row, n.heads);
    const T* from = x + token * n.token_stride + (row - token * n.heads) * n.head_stride;
    T* to = y + row * n.dh;
    if (item < pairs) {
      rotate<T, w>(from, table + positions[token] * n.width, to, half, item * w, n.sign);
    } else {
      const std::int64_t i = n.width + (item - pairs) * w;
      const Vector<T, w> value = load_vector<w>(from + i);
      store_vector(to + i, value);
    }
  }
}

void run_rope(const RopeArgs& args, Workspace) {
  const std::int64_t width = args.table.size(1) / 2 * 2;
  const Sizes n{args.x.size(0),
                args.x.size(1),
                args.x.size(2),
                width,
                args.x.stride(0),
                args.x.stride(1),
                args.inverse ? -1.0F : 1.0F};
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = aligned(args.x.raw()) && aligned(args.y.raw()) && aligned(args.table.raw()) &&
                      width / 2 % widest<T> == 0 && n.dh % widest<T> == 0 &&
                      n.token_stride % widest<T> == 0 && n.head_stride % widest<T> == 0;
    visit_width<T>(wide, [&](auto vector) {
      constexpr int w = decltype(vector)::value;
      const std::int64_t items = (width / 2 + n.dh - width) / w;
      launch(args.x.device().stream(), rope_rows<T, w>, blocks_for(n.tokens * n.heads * items),
             args.x.data<T>(), args.table.data<float>(), args.positions.data<std::int32_t>(),
             args.y.data<T>(), n);
    });
  });
}

const Register<RopeArgs> register_rope(rope_kernel(), {DeviceKind::cuda, "vector", run_rope});

}  // namespace
}  // namespace tessera::cuda
