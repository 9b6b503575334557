#include "core/ops/grouped_linear.h"

#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

// As for plain products: tiles of fixed size, cut from each group alone.
constexpr std::int64_t tile_m = 256;
constexpr std::int64_t tile_n = 512;

// A product of one group, row-major: c [m, n] = a · b with the given transpositions, rows of a and b where
// they lie.
struct Product {
  std::int64_t m, n, k;
  std::int64_t a, b, c;  // first rows
};

struct Tile {
  Product product;
  std::int64_t i, j;
};

std::vector<Product> products_of(const GroupedMatmulArgs& args) {
  const auto* offsets = args.offsets.data<std::int32_t>();
  const std::int64_t groups = args.offsets.numel() - 1;
  std::vector<Product> products;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t begin = offsets[g];
    const std::int64_t rows = offsets[g + 1] - begin;
    if (args.product == GroupedProduct::weight_gradient) {
      const std::int64_t n = args.c.size(0) / groups;
      products.push_back({n, args.c.size(1), rows, begin, begin, g * n});
    } else {
      const std::int64_t n = args.b.size(0) / groups;
      const bool forward = args.product == GroupedProduct::output;
      products.push_back({rows, args.c.size(1), forward ? args.a.size(1) : n, begin, g * n, begin});
    }
  }
  return products;
}

template <class T>
void run_tile(const GroupedMatmulArgs& args, const Tile& tile) {
  const Product& p = tile.product;
  const bool transpose_a = args.product == GroupedProduct::weight_gradient;
  const bool transpose_b = args.product == GroupedProduct::output;
  const std::int64_t lda = args.a.size(1);
  const std::int64_t ldb = args.b.size(1);
  const std::int64_t ldc = args.c.size(1);
  const std::int64_t height = std::min(tile_m, p.m - tile.i);
  const std::int64_t width = std::min(tile_n, p.n - tile.j);
  const T* a = args.a.data<T>() + p.a * lda + (transpose_a ? tile.i : tile.i * lda);
  const T* b = args.b.data<T>() + p.b * ldb + (transpose_b ? tile.j * ldb : tile.j);
  const std::int64_t at = (p.c + tile.i) * ldc + tile.j;
  if constexpr (std::is_same_v<T, float>) {
    cpu::gemm_tile(transpose_a, transpose_b, height, width, p.k, 1.0F, a, lda, b, ldb,
                   args.accumulate ? 1.0F : 0.0F, args.c.data<float>() + at, ldc);
  } else {
    const auto element = static_cast<std::int64_t>(bytes_per_element(args.c.dtype()));
    cpu::gemm_tile_bf16(transpose_a, transpose_b, height, width, p.k, a, lda, b, ldb, args.accumulate,
                        args.c.dtype(), static_cast<std::byte*>(args.c.raw()) + at * element, ldc);
  }
}

// A group without rows has a zero weight gradient, and no other work.
void clear_empty(const GroupedMatmulArgs& args, const Product& p) {
  if (args.product != GroupedProduct::weight_gradient || args.accumulate) return;
  std::fill_n(args.c.data<float>() + p.c * p.n, p.m * p.n, 0.0F);
}

void run_grouped_matmul(const GroupedMatmulArgs& args, Workspace) {
  std::vector<Tile> tiles;
  for (const Product& p : products_of(args)) {
    if (p.m == 0 || p.k == 0) {
      clear_empty(args, p);
      continue;
    }
    for (std::int64_t i = 0; i < p.m; i += tile_m)
      for (std::int64_t j = 0; j < p.n; j += tile_n) tiles.push_back({p, i, j});
  }
  args.c.device().threads().parallel_for(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t tile) {
    cpu::visit(args.a.dtype(),
               [&](auto tag) { run_tile<decltype(tag)>(args, tiles[static_cast<std::size_t>(tile)]); });
  });
}

const Register<GroupedMatmulArgs> register_grouped(grouped_matmul_kernel(),
                                                   {DeviceKind::cpu, "onednn", run_grouped_matmul});

}  // namespace
}  // namespace tessera
