#include "kernels/cuda/native/cublaslt.h"

#include <array>
#include <cassert>
#include <string_view>

#include "core/base/error.h"

namespace tessera::cuda::lt {
namespace {

// Partial sums meet in fp32, in a step of their own. In place they meet in the order in which blocks finish,
// in the output's type they are rounded twice.
constexpr std::uint32_t fixed_order = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

cudaDataType_t data_type(DType dtype) {
  assert(dtype == DType::f32 || dtype == DType::bf16);
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

Layout make_layout(DType dtype, std::int64_t rows, std::int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, data_type(dtype), static_cast<std::uint64_t>(columns),
                                   static_cast<std::uint64_t>(rows), columns),
        "describing a matrix");
  return Layout(layout);
}

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
        "describing a product");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
        "stating preferences");
}

template <class T>
T config(const Algorithm& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  std::size_t written = 0;
  check(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written),
        "reading an algorithm");
  return value;
}

bool has_fixed_order(const Algorithm& algorithm) {
  return (config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) & ~fixed_order) == 0;
}

Preference make_preference(const GemmKey& key, std::size_t workspace_bytes) {
  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), "stating preferences");
  Preference preference(created);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, fixed_order);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key.align_b));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key.align_a));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key.align_c));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key.align_c));
  if (key.a == DType::f32) {
    constexpr std::uint64_t narrower = CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32 |
                                       CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F |
                                       CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF;
    set(preference, CUBLASLT_MATMUL_PREF_IMPL_MASK, ~narrower);
  }
  return preference;
}

}  // namespace

void check(cublasStatus_t status, const char* doing) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuBLASLt {}: {}: {}", cublasLtGetVersion(), doing, cublasLtGetStatusString(status));
}

Handle make_handle() {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "starting");
  return Handle(handle);
}

Problem::Problem(cublasLtHandle_t handle, const GemmKey& key) : handle_(handle), key_(key) {
  cublasLtMatmulDesc_t operation = nullptr;
  check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  operation_.reset(operation);
  set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation_, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.bias) {
    // The library's rows are our columns, so its bias, one element a row, is ours.
    set(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(key.c));
  }
  a_ = key.transpose_a ? make_layout(key.a, key.k, key.m) : make_layout(key.a, key.m, key.k);
  b_ = key.transpose_b ? make_layout(key.b, key.n, key.k) : make_layout(key.b, key.k, key.n);
  c_ = make_layout(key.c, key.m, key.n);
}

void Problem::set_bias(const void* bias) const {
  if (key_.bias) set(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
}

std::vector<Algorithm> Problem::suggestions(std::size_t workspace_bytes, int most) const {
  // Nothing is read: the address tells the library its alignment.
  set_bias(reinterpret_cast<const void*>(static_cast<std::uintptr_t>(key_.align_bias)));
  const Preference preference = make_preference(key_, workspace_bytes);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, operation_.get(), b_.get(), a_.get(), c_.get(), c_.get(),
                                     preference.get(), most, results.data(), &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "asking for algorithms");
  std::vector<Algorithm> algorithms;
  for (const auto& result : std::span(results).first(static_cast<std::size_t>(found)))
    if (result.state == CUBLAS_STATUS_SUCCESS && has_fixed_order(result.algo))
      algorithms.push_back(result.algo);
  if (algorithms.empty()) fail("cuBLASLt {} has no algorithm for {}", cublasLtGetVersion(), key_.text());
  return algorithms;
}

bool Problem::accepts(const Algorithm& algorithm, std::size_t workspace_bytes) const {
  set_bias(reinterpret_cast<const void*>(static_cast<std::uintptr_t>(key_.align_bias)));
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle_, operation_.get(), b_.get(), a_.get(), c_.get(), c_.get(),
                                 &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= workspace_bytes && has_fixed_order(algorithm);
}

cublasStatus_t Problem::run(const Algorithm& algorithm, const Operands& operands, Scratch workspace,
                            cudaStream_t stream) const {
  set_bias(operands.bias);
  const float alpha = 1;
  const float beta = key_.accumulate ? 1 : 0;
  return cublasLtMatmul(handle_, operation_.get(), &alpha, operands.b, b_.get(), operands.a, a_.get(), &beta,
                        operands.c, c_.get(), operands.c, c_.get(), &algorithm, workspace.address,
                        workspace.bytes, stream);
}

std::string describe(const Algorithm& algorithm) {
  // The first ids of cublasLtMatmulTile_t; the library has no names to ask for.
  constexpr std::array<std::string_view, 36> tiles = {
      "undefined", "8x8",    "8x16",    "16x8",    "8x32",    "16x16",   "32x8",    "8x64",   "16x32",
      "32x16",     "64x8",   "32x32",   "32x64",   "64x32",   "32x128",  "64x64",   "128x32", "64x128",
      "128x64",    "64x256", "128x128", "256x64",  "64x512",  "128x256", "256x128", "512x64", "64x96",
      "96x64",     "96x128", "128x160", "160x128", "192x128", "128x192", "128x96",  "32x256", "256x32"};
  const auto tile = config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID);
  return fmt::format("algorithm {}, tile {}, stages id {}, cluster id {}, split_k {}, swizzle {}, option {}",
                     config<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_ID),
                     tile < tiles.size() ? std::string(tiles[tile]) : fmt::format("id {}", tile),
                     config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                     config<std::uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID),
                     config<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                     config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING),
                     config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION));
}

}  // namespace tessera::cuda::lt
