// Matrix products on the CPU: oneDNN, called single-threaded on fixed tiles.
//
// Internal to kernels/cpu. A tile's result depends on its own shape and data only, and tiles are cut by shape
// alone, so the number of threads does not show in the bits. Both functions may be called from any thread.
#pragma once

#include <cstdint>

#include "core/base/dtype.h"

namespace tessera::cpu {

// c [m, n] = alpha a b + beta c in fp32; row-major with leading dimensions in elements; a is [m, k] or,
// transposed, [k, m]; b likewise.
void gemm_tile(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
               float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
               float* c, std::int64_t ldc);

// The same for bf16 a and b with alpha 1; c is f32, or bf16 if not accumulate.
void gemm_tile_bf16(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                    const bf16* a, std::int64_t lda, const bf16* b, std::int64_t ldb, bool accumulate,
                    DType c_dtype, void* c, std::int64_t ldc);

}  // namespace tessera::cpu
