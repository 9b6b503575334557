// Bias, sums of rows, and the plain matrix product: the reference for tensor-core candidates, never chosen
// unasked.
#include "core/ops/linear.h"

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/plain_product.h"

namespace tessera::cuda {
namespace {

template <class T, class C>
__global__ void matmul(const T* a, const T* b, C* c, std::int64_t m, std::int64_t n, std::int64_t k,
                       bool transpose_a, bool transpose_b, bool accumulate) {
  const std::int64_t columns = (n + product_tile - 1) / product_tile;
  const Factor<T> left{a, m, transpose_a ? 1 : k, transpose_a ? m : 1};
  const Factor<T> right{b, n, transpose_b ? k : 1, transpose_b ? 1 : n};
  multiply_tile(left, right, k, c, n, block_index() / columns * product_tile,
                block_index() % columns * product_tile, accumulate);
}

void run_matmul(const MatmulArgs& args, Workspace) {
  const std::int64_t m = args.c.size(0);
  const std::int64_t n = args.c.size(1);
  const std::int64_t k = args.transpose_a ? args.a.size(0) : args.a.size(1);
  visit(args.a.dtype(), [&](auto tag) {
    visit(args.c.dtype(), [&](auto c_tag) {
      using T = decltype(tag);
      using C = decltype(c_tag);
      launch(args.c.device().stream(), matmul<T, C>,
             {product_tiles(m) * product_tiles(n), product_threads, product_shared_bytes}, args.a.data<T>(),
             args.b.data<T>(), args.c.data<C>(), m, n, k, args.transpose_a, args.transpose_b,
             args.accumulate);
    });
  });
}

// A block per row. Reads and writes x: 4 n bytes per row in bf16.
template <class T, int w>
__global__ void add_bias_rows(T* x, const T* bias, std::int64_t n) {
  T* row = x + block_index() * n;
  for (std::int64_t i = std::int64_t{thread_index()} * w; i < n; i += std::int64_t{thread_count()} * w) {
    Vector<T, w> value = load_vector<w>(static_cast<const T*>(row + i));
    const Vector<T, w> more = load_vector<w>(bias + i);
    for (int j = 0; j < w; ++j) value.at[j] = T(to_float(value.at[j]) + to_float(more.at[j]));
    store_vector(row + i, value);
  }
}

void run_add_bias(const AddBiasArgs& args, Workspace) {
  const std::int64_t n = args.x.size(1);
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = aligned(args.x.raw()) && aligned(args.bias.raw()) && n % widest<T> == 0;
    visit_width<T>(wide, [&](auto width) {
      launch(args.x.device().stream(), add_bias_rows<T, decltype(width)::value>, {args.x.size(0), 256, 0},
             args.x.data<T>(), args.bias.data<T>(), n);
    });
  });
}

constexpr std::int64_t block_rows = 64;
constexpr int partial_threads = 128;

// A block is (64 rows, columns by a vector a thread). Reads x: 2 n bytes per row in bf16.
template <class T, int w>
__global__ void partial_sums(const T* x, float* partial, std::int64_t rows, std::int64_t n) {
  const std::int64_t cuts = (n + partial_threads * w - 1) / (partial_threads * w);
  const std::int64_t block = block_index() / cuts;
  const std::int64_t column = (block_index() % cuts * partial_threads + thread_index()) * w;
  if (column >= n) return;
  const std::int64_t end = (block + 1) * block_rows < rows ? (block + 1) * block_rows : rows;
  float sums[w] = {};
  for (std::int64_t row = block * block_rows; row < end; ++row) {
    const Vector<T, w> value = load_vector<w>(x + row * n + column);
    for (int j = 0; j < w; ++j) sums[j] += to_float(value.at[j]);
  }
  for (int j = 0; j < w; ++j) partial[block * n + column + j] = sums[j];
}

// A block is 32 columns. Its warps take blocks of rows in turn; their sums add up in order.
__global__ void sum_partials(const float* partial, float* out, std::int64_t blocks, std::int64_t n,
                             bool accumulate) {
  SharedArena arena;
  const Shared<float> sums = arena.array<float>(thread_count());
  const std::int64_t column = block_index() * warp_size + lane_index();
  float mine = 0;
  if (column < n)
    for (std::int64_t block = warp_index(); block < blocks; block += warp_count())
      mine += partial[block * n + column];
  sums[thread_index()] = mine;
  sync_threads();
  if (warp_index() != 0 || column >= n) return;
  float total = accumulate ? out[column] : 0.0F;
  for (int i = 0; i < warp_count(); ++i) {
    const float more = sums[i * warp_size + lane_index()];
    total += more;
  }
  out[column] = total;
}

std::int64_t blocks_of(const SumRowsArgs& args) {
  return (args.x.size(0) + block_rows - 1) / block_rows;
}

std::size_t sum_rows_workspace(const SumRowsArgs& args) {
  return static_cast<std::size_t>(blocks_of(args) * args.x.size(1)) * sizeof(float);
}

void run_sum_rows(const SumRowsArgs& args, Workspace workspace) {
  const std::int64_t n = args.x.size(1);
  Stream& stream = args.x.device().stream();
  auto* partial = static_cast<float*>(workspace.address);
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit_width<T>(aligned(args.x.raw()) && n % widest<T> == 0, [&](auto width) {
      constexpr int w = decltype(width)::value;
      const std::int64_t cuts = (n + partial_threads * w - 1) / (partial_threads * w);
      launch(stream, partial_sums<T, w>, {blocks_of(args) * cuts, partial_threads, 0}, args.x.data<T>(),
             partial, args.x.size(0), n);
    });
  });
  launch(stream, sum_partials, {(n + warp_size - 1) / warp_size, 256, shared_size<float>(256)}, partial,
         args.out.data<float>(), blocks_of(args), n, args.accumulate);
}

const Register<MatmulArgs> register_matmul(
    matmul_kernel(), {.device = DeviceKind::cuda, .name = "plain", .run = run_matmul, .on_request = true});
const Register<AddBiasArgs> register_add_bias(add_bias_kernel(), {DeviceKind::cuda, "vector", run_add_bias});
const Register<SumRowsArgs> register_sum_rows(sum_rows_kernel(), {.device = DeviceKind::cuda,
                                                                  .name = "blocks",
                                                                  .run = run_sum_rows,
                                                                  .workspace_bytes = sum_rows_workspace});

}  // namespace
}  // namespace tessera::cuda
