// Errors of the CUDA runtime as Error, and the CUDA stream behind a Stream. Any thread.
#pragma once

#include <cuda_runtime.h>

#include "core/tensor/device.h"

namespace tessera::cuda {

// Throws Error with the device, what was being done, CUDA's words, and what to do about it.
[[noreturn]] void raise(cudaError_t error, const char* doing);
inline void check(cudaError_t error, const char* doing) {
  if (error != cudaSuccess) raise(error, doing);
}

// `stream` must belong to a cuda Device.
cudaStream_t native_stream(Stream& stream);

}  // namespace tessera::cuda
