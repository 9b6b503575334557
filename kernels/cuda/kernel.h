// What a CUDA kernel file is written with, on a GPU and in emulation.
//
// A kernel file (x.cu) includes this header and no CUDA header. nvcc compiles it against
// native/cuda_platform.h; a host compiler against tests/emulation/cuda_platform.h, which runs a block's
// threads as fibers in a shuffled order and reports accesses out of bounds, missing and divergent barriers,
// reads of unwritten shared memory, and hazards between streams. For it to see them, kernels keep to this:
//
//   template <class T>
//   __global__ void double_rows(const T* x, T* y, std::int64_t n) {     // const T*: read; T*: written
//     for (std::int64_t i = grid_index(); i < n; i += grid_stride())    // 64-bit indices
//       y[i] = T(2 * to_float(x[i]));
//   }
//   launch(args.y.device().stream(), double_rows<float>, blocks_for(n), x, y, n);
//
// - Parameters are plain pointers, plain values, or a Pointers<T, n>; tensors stay on the host. From the
//   constness of pointers launch() derives what a kernel reads and writes.
// - Indices and sizes of tensors are std::int64_t. Grids have one dimension.
// - Shared memory comes from a SharedArena, in the same order on every thread; its total is
// Grid::shared_bytes.
//   An element of it is read into a named variable of its type (`const float x = tile[i];`, never `auto`).
// - Barriers: sync_threads() by all threads of the block, sync_warp() and shuffles by all 32 of the warp.
//   A warp's threads are not in step otherwise.
// - No float atomics, no thread or block may wait for another but at barriers, no device-side allocation.
// - Sums are two-stage and of fixed order: a result depends on shapes alone.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "core/tensor/device.h"
#include "core/tensor/kernel.h"
#include "core/tensor/tensor.h"

namespace tessera::cuda {

inline constexpr int warp_size = 32;

struct Grid {
  std::int64_t blocks = 1;  // up to 2^31 − 1; none: nothing is launched
  int threads = 256;        // of a block; a multiple of 32 up to 1024
  std::size_t shared_bytes = 0;
};

// What n elements of shared memory take from Grid::shared_bytes.
template <class T>
constexpr std::size_t shared_size(std::int64_t n) {
  return (static_cast<std::size_t>(n) * sizeof(T) + 15) / 16 * 16;
}

// A list of buffers as one parameter.
template <class T, int n>
struct Pointers {
  T* at[n] = {};
};

}  // namespace tessera::cuda

#include <cuda_platform.h>  // native, or of the emulation: the target says

namespace tessera::cuda {

// Blocks enough to give each of n elements a thread, `each` of them a thread.
inline Grid blocks_for(std::int64_t n, std::int64_t each = 1, int threads = 256) {
  const std::int64_t per_block = each * threads;
  return {(n + per_block - 1) / per_block, threads, 0};
}

__device__ inline std::int64_t grid_index() {
  return block_index() * thread_count() + thread_index();
}
__device__ inline std::int64_t grid_stride() {
  return block_count() * thread_count();
}
__device__ inline int lane_index() {
  return thread_index() % warp_size;
}
__device__ inline int warp_index() {
  return thread_index() / warp_size;
}
__device__ inline int warp_count() {
  return thread_count() / warp_size;
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bf16 x) {
  return static_cast<float>(x);
}

// Calls f with a value of the C++ type of `dtype`, which must be f32 or bf16.
template <class F>
void visit(DType dtype, F f) {
  if (dtype == DType::f32)
    f(float{});
  else
    f(bf16{});
}

// n elements that move as one access; n · sizeof(T) is at most 16 and the address a multiple of it.
template <class T, int n>
struct alignas(sizeof(T) * n) Vector {
  T at[n];
};
template <class T>
inline constexpr int widest = static_cast<int>(16 / sizeof(T));
template <int n, class T>
__device__ inline Vector<T, n> load_vector(const T* address) {
  return *reinterpret_cast<const Vector<T, n>*>(address);
}
template <int n, class T>
__device__ inline void store_vector(T* address, const Vector<T, n>& value) {
  *reinterpret_cast<Vector<T, n>*>(address) = value;
}
// Whether a pointer may be accessed 16 bytes at a time.
inline bool aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}
// Calls f with an integral constant: the widest vector if `wide`, else 1.
template <class T, class F>
void visit_width(bool wide, F f) {
  if (wide)
    f(std::integral_constant<int, widest<T>>{});
  else
    f(std::integral_constant<int, 1>{});
}

// Over the 32 threads of a warp, in a fixed tree; every thread gets the result.
template <class T>
__device__ T warp_sum(T x) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) x = std::fmax(x, shuffle_xor(x, mask));
  return x;
}

// Over a block, in a fixed tree; every thread gets the result. `scratch`: 32 elements, used by no other call
// since the last sync_threads().
template <class T>
__device__ T block_sum(T x, Shared<T> scratch) {
  x = warp_sum(x);
  if (lane_index() == 0) scratch[warp_index()] = x;
  sync_threads();
  T total = 0;
  if (lane_index() < warp_count()) total = scratch[lane_index()];
  return warp_sum(total);
}
__device__ inline float block_max(float x, Shared<float> scratch) {
  x = warp_max(x);
  if (lane_index() == 0) scratch[warp_index()] = x;
  sync_threads();
  float top = -INFINITY;
  if (lane_index() < warp_count()) top = scratch[lane_index()];
  return warp_max(top);
}

}  // namespace tessera::cuda
