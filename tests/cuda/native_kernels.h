// The kernels that run on GPUs only: of libraries, or of instructions that the emulator does not know. Each
// has a plain twin of the same signature, which emulation runs in CI, and which a GPU test compares it with.
//
// The completeness test fails for a kernel that is neither emulated nor in this list.
#pragma once

namespace tessera::cuda {

struct NativeKernel {
  const char* slot;
  const char* candidate;
  const char* twin;
  const char* compared_in;  // of tests/cuda
};

inline constexpr NativeKernel native_kernels[] = {
    {"matmul", "cublaslt", "plain", "gpu_twins_test.cpp"},
    {"grouped_matmul", "mma", "plain", "gpu_twins_test.cpp"},
    {"attention_forward", "cudnn", "plain", "gpu_attention_test.cpp"},
    {"attention_backward", "cudnn", "plain", "gpu_attention_test.cpp"},
    {"attention_backward", "cudnn_any_order", "plain", "gpu_attention_test.cpp"},
};

}  // namespace tessera::cuda
