// A tile of a matrix product by plain fp32 arithmetic: what the reference kernels of linear.cu and
// grouped_linear.cu share. Internal to kernels/cuda.
#pragma once

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {

inline constexpr int product_tile = 64;      // rows and columns of a tile
inline constexpr int product_threads = 256;  // of a block, 4 × 4 elements each
inline constexpr int product_step = 32;      // of k at once
inline constexpr int product_pitch = product_tile + 1;
inline constexpr std::size_t product_shared_bytes = 2 * shared_size<float>(product_step * product_pitch);

inline std::int64_t product_tiles(std::int64_t n) {
  return (n + product_tile - 1) / product_tile;
}

// A factor: `count` rows of a, or columns of b, of k elements; element (i, j) at i · stride + j · k_stride.
template <class T>
struct Factor {
  const T* at;
  std::int64_t count, stride, k_stride;
};

// Reads neighbours in memory by neighbouring threads. What lies outside the factor is not written.
template <class T>
__device__ void load_factor(const Factor<T>& x, std::int64_t first, std::int64_t k0, std::int64_t k,
                            Shared<float> to) {
  for (int e = thread_index(); e < product_tile * product_step; e += thread_count()) {
    const int i = x.k_stride == 1 ? e / product_step : e % product_tile;
    const int j = x.k_stride == 1 ? e % product_step : e / product_tile;
    if (first + i < x.count && k0 + j < k)
      to[j * product_pitch + i] = to_float(x.at[(first + i) * x.stride + (k0 + j) * x.k_stride]);
  }
}

// How many of 4 elements, 16 apart, are among the next `left`.
__device__ inline int inside(std::int64_t left) {
  return left <= 0 ? 0 : left > 48 ? 4 : static_cast<int>((left + 15) / 16);
}

// The tile of c = a · b, or +=, at (i0, j0), summed over k in order. By all threads of a block.
template <class T, class C>
__device__ void multiply_tile(const Factor<T>& a, const Factor<T>& b, std::int64_t k, C* c, std::int64_t ldc,
                              std::int64_t i0, std::int64_t j0, bool accumulate) {
  SharedArena arena;
  const Shared<float> sa = arena.array<float>(product_step * product_pitch);
  const Shared<float> sb = arena.array<float>(product_step * product_pitch);
  const int row = thread_index() / 16;
  const int column = thread_index() % 16;
  // Of a thread's 4 × 4 elements, those inside c: most of a tile may lie outside.
  const int rows = inside(a.count - i0 - row);
  const int columns = inside(b.count - j0 - column);
  float sums[4][4] = {};
  for (std::int64_t k0 = 0; k0 < k; k0 += product_step) {
    load_factor(a, i0, k0, k, sa);
    load_factor(b, j0, k0, k, sb);
    sync_threads();
    const int depth = k - k0 < product_step ? static_cast<int>(k - k0) : product_step;
    for (int kk = 0; rows > 0 && columns > 0 && kk < depth; ++kk) {
      float x[4] = {};
      float y[4] = {};
      for (int r = 0; r < rows; ++r) {
        const float from_a = sa[kk * product_pitch + row + 16 * r];
        x[r] = from_a;
      }
      for (int s = 0; s < columns; ++s) {
        const float from_b = sb[kk * product_pitch + column + 16 * s];
        y[s] = from_b;
      }
      for (int r = 0; r < 4; ++r)
        for (int s = 0; s < 4; ++s) sums[r][s] += x[r] * y[s];
    }
    sync_threads();
  }
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < columns; ++s) {
      const std::int64_t i = i0 + row + 16 * r;
      const std::int64_t j = j0 + column + 16 * s;
      C& to = c[i * ldc + j];
      to = accumulate ? C(to_float(to) + sums[r][s]) : C(sums[r][s]);
    }
}

}  // namespace tessera::cuda
