// The vocabulary of kernels/cuda/kernel.h as nvcc compiles it. Included by that header only.
#pragma once

#include <cuda_runtime.h>

#include <cassert>
#include <type_traits>

#include "kernels/cuda/native/check.h"

namespace tessera::cuda {

__device__ inline std::int64_t block_index() {
  return blockIdx.x;
}
__device__ inline std::int64_t block_count() {
  return gridDim.x;
}
__device__ inline int thread_index() {
  return static_cast<int>(threadIdx.x);
}
__device__ inline int thread_count() {
  return static_cast<int>(blockDim.x);
}
__device__ inline void sync_threads() {
  __syncthreads();
}
__device__ inline void sync_warp() {
  __syncwarp();
}

inline constexpr unsigned whole_warp = 0xffffffffU;
template <class T>
__device__ T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(whole_warp, x, mask);
}
template <class T>
__device__ T shuffle_down(T x, int lanes) {
  return __shfl_down_sync(whole_warp, x, static_cast<unsigned>(lanes));
}
template <class T>
__device__ T shuffle(T x, int lane) {
  return __shfl_sync(whole_warp, x, lane);
}

// n elements of the block's shared memory.
template <class T>
class Shared {
 public:
  __device__ explicit Shared(T* first) : first_(first) {}
  __device__ T& operator[](std::int64_t i) const { return first_[i]; }
  __device__ Shared operator+(std::int64_t n) const { return Shared(first_ + n); }

 private:
  T* first_;
};

// Hands out the block's shared memory.
class SharedArena {
 public:
  template <class T>
  __device__ Shared<T> array(std::int64_t n) {
    extern __shared__ __align__(16) unsigned char tessera_shared_memory[];
    T* first = reinterpret_cast<T*>(tessera_shared_memory + used_);
    used_ += shared_size<T>(n);
    return Shared<T>(first);
  }

 private:
  std::size_t used_ = 0;
};

// Runs kernel(args…) after the work that `stream` has been given. Throws Error where CUDA refuses it.
template <class... P, class... A>
void launch(Stream& stream, void (*kernel)(P...), const Grid& grid, A... args) {
  if (grid.blocks == 0) return;
  assert(grid.blocks > 0 && grid.blocks < (std::int64_t{1} << 31) && grid.threads % warp_size == 0);
  constexpr std::size_t without_asking = 48 * 1024;
  if (grid.shared_bytes > without_asking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          "asking for shared memory");
  kernel<<<static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.threads), grid.shared_bytes,
           native_stream(stream)>>>(static_cast<P>(args)...);
  check(cudaGetLastError(), "launching a kernel");
}

}  // namespace tessera::cuda
