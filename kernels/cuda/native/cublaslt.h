// cuBLASLt as the few calls that Gemm needs. Included by the sources of Gemm only.
//
// cuBLASLt is column-major. A row-major matrix is its transpose in column-major, so c = a · b is computed as
// cᵀ = bᵀ · aᵀ: cuBLASLt's A is our b, its B our a, its rows our columns. Leading dimensions are row lengths.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/native/gemm.h"

namespace tessera::cuda::lt {

// Throws Error with what was being done and the library's words.
void check(cublasStatus_t status, const char* doing);

template <class T, cublasStatus_t (*destroy)(T)>
struct Destroy {
  using pointer = T;
  void operator()(T object) const { destroy(object); }
};
template <class T, cublasStatus_t (*destroy)(T)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;

using Handle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;
using Algorithm = cublasLtMatmulAlgo_t;

Handle make_handle();

struct Operands {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  const void* bias = nullptr;
};
struct Scratch {
  void* address = nullptr;
  std::size_t bytes = 0;
};

// One product, described to the library.
class Problem {
 public:
  Problem(cublasLtHandle_t handle, const GemmKey& key);

  // Up to `most` algorithms of fixed summation order, the most promising first.
  std::vector<Algorithm> suggestions(std::size_t workspace_bytes, int most) const;
  // Whether an algorithm, from wherever it comes, computes this problem here and in a fixed order.
  bool accepts(const Algorithm& algorithm, std::size_t workspace_bytes) const;
  cublasStatus_t run(const Algorithm& algorithm, const Operands& operands, Scratch workspace,
                     cudaStream_t stream) const;

 private:
  void set_bias(const void* bias) const;

  cublasLtHandle_t handle_;
  GemmKey key_;
  Operation operation_;
  Layout a_, b_, c_;
};

// "tile 128x256, split_k 1, …", for people.
std::string describe(const Algorithm& algorithm);

}  // namespace tessera::cuda::lt
