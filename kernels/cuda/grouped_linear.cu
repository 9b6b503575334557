// Products of groups of rows, plain: the reference for tensor-core candidates, never chosen unasked.
//
// Where groups lie is known on the device only. Grids cover what they may need at most, and blocks without
// work leave.
#include "core/ops/grouped_linear.h"

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/plain_product.h"

namespace tessera::cuda {
namespace {

// c rows of a group = a's rows times the group's matrix, [n, width of a] or transposed. A block finds its
// group by counting tiles.
template <class T>
__global__ void multiply_rows(const T* a, const T* b, T* c, const std::int32_t* offsets, std::int64_t groups,
                              std::int64_t columns, std::int64_t k, bool transpose_b) {
  const std::int64_t cuts = (columns + product_tile - 1) / product_tile;
  std::int64_t tile = block_index() / cuts;
  std::int64_t begin = 0;
  std::int64_t rows = 0;
  std::int64_t group = 0;
  for (; group < groups; ++group) {
    begin = offsets[group];
    rows = offsets[group + 1] - begin;
    const std::int64_t tiles = (rows + product_tile - 1) / product_tile;
    if (tile < tiles) break;
    tile -= tiles;
  }
  if (group == groups) return;
  const Factor<T> left{a + begin * k, rows, k, 1};
  const Factor<T> right{b + group * columns * k, columns, transpose_b ? k : 1, transpose_b ? 1 : columns};
  multiply_tile(left, right, k, c + begin * columns, columns, tile * product_tile,
                block_index() % cuts * product_tile, false);
}

// c_g [n, columns] = a_gᵀ b_g, or +=; zero where the group is empty.
template <class T>
__global__ void multiply_weights(const T* a, const T* b, float* c, const std::int32_t* offsets,
                                 std::int64_t n, std::int64_t columns, bool accumulate) {
  const std::int64_t down = (n + product_tile - 1) / product_tile;
  const std::int64_t across = (columns + product_tile - 1) / product_tile;
  const std::int64_t group = block_index() / (down * across);
  const std::int64_t tile = block_index() % (down * across);
  const std::int64_t begin = offsets[group];
  const std::int64_t rows = offsets[group + 1] - begin;
  const Factor<T> left{a + begin * n, n, 1, n};
  const Factor<T> right{b + begin * columns, columns, 1, columns};
  multiply_tile(left, right, rows, c + group * n * columns, columns, tile / across * product_tile,
                tile % across * product_tile, accumulate);
}

void run_grouped_matmul(const GroupedMatmulArgs& args, Workspace) {
  const std::int64_t groups = args.offsets.numel() - 1;
  const std::int64_t columns = args.c.size(1);
  Stream& stream = args.c.device().stream();
  const auto* offsets = args.offsets.data<std::int32_t>();
  visit(args.a.dtype(), [&](auto tag) {
    using T = decltype(tag);
    if (args.product == GroupedProduct::weight_gradient) {
      const std::int64_t n = args.a.size(1);
      launch(stream, multiply_weights<T>,
             {groups * product_tiles(n) * product_tiles(columns), product_threads, product_shared_bytes},
             args.a.data<T>(), args.b.data<T>(), args.c.data<float>(), offsets, n, columns, args.accumulate);
    } else {
      // Every group may end in a part of a tile.
      const std::int64_t tiles = args.c.size(0) / product_tile + groups;
      launch(stream, multiply_rows<T>,
             {tiles * product_tiles(columns), product_threads, product_shared_bytes}, args.a.data<T>(),
             args.b.data<T>(), args.c.data<T>(), offsets, groups, columns, args.a.size(1),
             args.product == GroupedProduct::output);
    }
  });
}

const Register<GroupedMatmulArgs> register_grouped(grouped_matmul_kernel(),
                                                   {DeviceKind::cuda, "plain", run_grouped_matmul});

}  // namespace
}  // namespace tessera::cuda
