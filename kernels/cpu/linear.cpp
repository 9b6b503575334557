#include "core/ops/linear.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

// Tiles are this large whatever the thread count: big enough to hide packing, small enough to share out.
constexpr std::int64_t tile_m = 256;
constexpr std::int64_t tile_n = 512;

template <class T>
void matmul(const MatmulArgs& args) {
  const std::int64_t m = args.c.size(0);
  const std::int64_t n = args.c.size(1);
  const std::int64_t k = args.transpose_a ? args.a.size(0) : args.a.size(1);
  const std::int64_t lda = args.a.size(1);
  const std::int64_t ldb = args.b.size(1);
  const std::int64_t columns = (n + tile_n - 1) / tile_n;
  const std::int64_t rows = (m + tile_m - 1) / tile_m;
  const T* a = args.a.data<T>();
  const T* b = args.b.data<T>();
  args.c.device().threads().parallel_for(rows * columns, [&](std::int64_t tile) {
    const std::int64_t i = tile / columns * tile_m;
    const std::int64_t j = tile % columns * tile_n;
    const T* a_tile = a + (args.transpose_a ? i : i * lda);
    const T* b_tile = b + (args.transpose_b ? j * ldb : j);
    const std::int64_t height = std::min(tile_m, m - i);
    const std::int64_t width = std::min(tile_n, n - j);
    if constexpr (std::is_same_v<T, float>) {
      cpu::gemm_tile(args.transpose_a, args.transpose_b, height, width, k, 1.0F, a_tile, lda, b_tile, ldb,
                     args.accumulate ? 1.0F : 0.0F, args.c.data<float>() + i * n + j, n);
    } else {
      const auto element = static_cast<std::int64_t>(bytes_per_element(args.c.dtype()));
      auto* c = static_cast<std::byte*>(args.c.raw()) + (i * n + j) * element;
      cpu::gemm_tile_bf16(args.transpose_a, args.transpose_b, height, width, k, a_tile, lda, b_tile, ldb,
                          args.accumulate, args.c.dtype(), c, n);
    }
  });
}

void run_matmul(const MatmulArgs& args, Workspace) {
  cpu::visit(args.a.dtype(), [&](auto tag) { matmul<decltype(tag)>(args); });
}

void run_add_bias(const AddBiasArgs& args, Workspace) {
  const std::int64_t n = args.x.size(1);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* bias = args.bias.data<T>();
    args.x.device().threads().parallel_blocks(args.x.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* x = args.x.data<T>() + row * n;
        for (std::int64_t j = 0; j < n; ++j) x[j] = T(cpu::load(x[j]) + cpu::load(bias[j]));
      }
    });
  });
}

constexpr std::int64_t block_rows = 64;

std::int64_t blocks_of(const SumRowsArgs& args) {
  return (args.x.size(0) + block_rows - 1) / block_rows;
}

std::size_t sum_rows_workspace(const SumRowsArgs& args) {
  return static_cast<std::size_t>(blocks_of(args) * args.x.size(1)) * sizeof(float);
}

// Two stages: fixed blocks of rows, then the blocks in order.
void run_sum_rows(const SumRowsArgs& args, Workspace workspace) {
  const std::int64_t n = args.x.size(1);
  auto* partial = static_cast<float*>(workspace.address);
  cpu::visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.x.device().threads().parallel_for(blocks_of(args), [&](std::int64_t block) {
      float* sums = partial + block * n;
      std::fill_n(sums, n, 0.0F);
      const std::int64_t end = std::min(args.x.size(0), (block + 1) * block_rows);
      for (std::int64_t row = block * block_rows; row < end; ++row) {
        const T* x = args.x.data<T>() + row * n;
        for (std::int64_t j = 0; j < n; ++j) sums[j] += cpu::load(x[j]);
      }
    });
  });
  auto* out = args.out.data<float>();
  if (!args.accumulate) std::fill_n(out, n, 0.0F);
  for (std::int64_t block = 0; block < blocks_of(args); ++block)
    for (std::int64_t j = 0; j < n; ++j) out[j] += partial[block * n + j];
}

const Register<MatmulArgs> register_matmul(matmul_kernel(), {DeviceKind::cpu, "onednn", run_matmul});
const Register<AddBiasArgs> register_add_bias(add_bias_kernel(), {DeviceKind::cpu, "plain", run_add_bias});
const Register<SumRowsArgs> register_sum_rows(sum_rows_kernel(), {DeviceKind::cpu, "blocks", run_sum_rows,
                                                                  nullptr, sum_rows_workspace});

}  // namespace
}  // namespace tessera
