#include "kernels/cpu/gemm.h"

#include <cpuid.h>
#include <omp.h>

#include <array>
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <vector>

#include "core/base/error.h"

namespace tessera::cpu {
namespace {

// A virtual machine may advertise AMX and mask the leaves that describe its tiles; oneDNN then dies of
// SIGILL. Cap it unless leaf 0x1D describes palette 1 with its eight tile registers.
bool tiles_are_described() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(0x1D, 0, &a, &b, &c, &d) == 0 || a < 1) return false;
  if (__get_cpuid_count(0x1D, 1, &a, &b, &c, &d) == 0) return false;
  return (b >> 16) >= 8;
}

// Once per process: oneDNN's instruction set is capped. Once per thread: it keeps to the calling thread.
void prepare_thread() {
  static const bool capped = [] {
    if (!tiles_are_described()) dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16);
    return true;
  }();
  (void)capped;
  thread_local const bool single = [] {
    omp_set_num_threads(1);
    return true;
  }();
  (void)single;
}

dnnl::engine& engine() {
  thread_local dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

struct Matmul {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, c;
};

// oneDNN multiplies bf16 from AVX-512 on.
bool multiplies_bf16() {
  static const bool can = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core;
  return can;
}

// Rows of bf16, `count` of `width`, as fp32 without gaps.
void widen(const bf16* from, std::int64_t count, std::int64_t width, std::int64_t stride, float* to) {
  for (std::int64_t row = 0; row < count; ++row)
    for (std::int64_t i = 0; i < width; ++i) to[row * width + i] = static_cast<float>(from[row * stride + i]);
}

// What other processors do instead: products of bf16 numbers are exact in fp32, so only the order of sums
// differs.
void gemm_tile_widened(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                       const bf16* a, std::int64_t lda, const bf16* b, std::int64_t ldb, bool accumulate,
                       DType c_dtype, void* c, std::int64_t ldc) {
  thread_local std::vector<float> wide_a, wide_b, wide_c;
  wide_a.resize(static_cast<std::size_t>(m * k));
  wide_b.resize(static_cast<std::size_t>(k * n));
  widen(a, transpose_a ? k : m, transpose_a ? m : k, lda, wide_a.data());
  widen(b, transpose_b ? n : k, transpose_b ? k : n, ldb, wide_b.data());
  const bool in_place = c_dtype == DType::f32;
  if (!in_place) wide_c.resize(static_cast<std::size_t>(m * n));
  float* out = in_place ? static_cast<float*>(c) : wide_c.data();
  gemm_tile(transpose_a, transpose_b, m, n, k, 1.0F, wide_a.data(), transpose_a ? m : k, wide_b.data(),
            transpose_b ? k : n, accumulate ? 1.0F : 0.0F, out, in_place ? ldc : n);
  for (std::int64_t row = 0; row < m && !in_place; ++row)
    for (std::int64_t i = 0; i < n; ++i) static_cast<bf16*>(c)[row * ldc + i] = bf16(out[row * n + i]);
}

enum class Output : std::int64_t { f32, f32_added, bf16 };

// m, n, k, transpose a, transpose b, lda, ldb, ldc, output.
using MatmulKey = std::array<std::int64_t, 9>;

const Matmul& matmul_of(const MatmulKey& key) {
  thread_local std::map<MatmulKey, Matmul> cache;
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  const auto [m, n, k, ta, tb, lda, ldb, ldc, mode] = key;
  const auto output = static_cast<Output>(mode);
  using Type = dnnl::memory::data_type;
  using Dims = dnnl::memory::dims;
  Matmul made;
  made.a = dnnl::memory::desc({m, k}, Type::bf16, ta != 0 ? Dims{1, lda} : Dims{lda, 1});
  made.b = dnnl::memory::desc({k, n}, Type::bf16, tb != 0 ? Dims{1, ldb} : Dims{ldb, 1});
  made.c = dnnl::memory::desc({m, n}, output == Output::bf16 ? Type::bf16 : Type::f32, Dims{ldc, 1});
  dnnl::primitive_attr attributes;
  if (output == Output::f32_added) {
    dnnl::post_ops sum;
    sum.append_sum(1.0F);
    attributes.set_post_ops(sum);
  }
  // oneDNN keeps primitives for all threads. A lock of ours orders their making, where the thread sanitizer,
  // which does not see into the library, would report races.
  static std::mutex making;
  const std::lock_guard lock(making);
  made.primitive = dnnl::matmul(
      dnnl::matmul::primitive_desc(dnnl::matmul::desc(made.a, made.b, made.c), attributes, engine()));
  return cache.emplace(key, std::move(made)).first->second;
}

}  // namespace

void gemm_tile(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
               float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
               float* c, std::int64_t ldc) {
  prepare_thread();
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a,
                                          lda, b, ldb, beta, c, ldc);
  if (status != dnnl_success)
    fail("oneDNN refused a {} x {} x {} product (status {})", m, n, k, static_cast<int>(status));
}

void gemm_tile_bf16(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                    const bf16* a, std::int64_t lda, const bf16* b, std::int64_t ldb, bool accumulate,
                    DType c_dtype, void* c, std::int64_t ldc) {
  prepare_thread();
  if (!multiplies_bf16()) {
    gemm_tile_widened(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, accumulate, c_dtype, c, ldc);
    return;
  }
  const Output output = accumulate ? Output::f32_added : c_dtype == DType::bf16 ? Output::bf16 : Output::f32;
  const Matmul& matmul =
      matmul_of({m, n, k, transpose_a, transpose_b, lda, ldb, ldc, static_cast<std::int64_t>(output)});
  thread_local dnnl::stream stream(engine());
  matmul.primitive.execute(stream,
                           {{DNNL_ARG_SRC, dnnl::memory(matmul.a, engine(), const_cast<bf16*>(a))},
                            {DNNL_ARG_WEIGHTS, dnnl::memory(matmul.b, engine(), const_cast<bf16*>(b))},
                            {DNNL_ARG_DST, dnnl::memory(matmul.c, engine(), c)}});
  stream.wait();
}

}  // namespace tessera::cpu
