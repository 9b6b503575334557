// Products of groups of rows on tensor cores, bf16 with fp32 sums.
//
// Native only: tensor-core instructions and asynchronous copies have no emulation. Its twin is "plain" in
// grouped_linear.cu, which CI runs and a GPU compares with.
//
// A block computes 128 × 128 of one group's c; it finds its group from the offsets on the device, so the grid
// is as large as the rows could need, and blocks left over end at once. Sums run in order of the summed
// dimension, in one block each: a group's result depends on its rows alone.

#include "kernels/cuda/kernel.h"

#include "core/ops/grouped_linear.h"

namespace tessera::cuda {
namespace {

constexpr int tile = 128;     // rows and columns of c that a block computes
constexpr int depth = 32;     // of the summed dimension, held in shared memory at a time
constexpr int stages = 4;     // of such parts: three on their way while one is multiplied
constexpr int threads = 128;  // four warps, each 64 × 64 of the tile
constexpr int warp_tile = 64;
constexpr int chunk = 8;  // bf16 that move as one copy of 16 bytes

// An operand's part in shared memory lies as it does in memory: [tile][depth] where the summed dimension is
// the contiguous one, else [depth][tile]. Rows are 16 bytes apart more than they are long: eight rows of one
// column then fall into different banks.
template <bool sum_contiguous>
struct Part {
  static constexpr int rows = sum_contiguous ? tile : depth;
  static constexpr int columns = sum_contiguous ? depth : tile;
  static constexpr int pitch = columns + chunk;
  static constexpr int bytes = rows * pitch * 2;
};

// What a product's operands look like. Of a and b, is the summed dimension contiguous?
template <GroupedProduct product>
struct Operands {
  static constexpr bool a_sum = product != GroupedProduct::weight_gradient;
  static constexpr bool b_sum = product == GroupedProduct::output;
  using A = Part<a_sum>;
  using B = Part<b_sum>;
  static constexpr int stage_bytes = A::bytes + B::bytes;
};

// A row-major matrix of which a part is copied; what lies outside reads as zero.
struct Matrix {
  const bf16* first;
  std::int64_t rows, columns;  // columns: a multiple of `chunk`
};

__device__ inline void copy_async(std::uint32_t to, const bf16* from, bool inside) {
  const int bytes = inside ? 16 : 0;  // the rest of the 16 is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most `pending` groups of this thread's copies are on their way.
template <int pending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

template <class P>
__device__ void copy_part(std::uint32_t shared, const Matrix& matrix, std::int64_t row, std::int64_t column) {
  constexpr int in_row = P::columns / chunk;
#pragma unroll
  for (int n = 0; n < P::rows * in_row / threads; ++n) {
    const int i = n * threads + thread_index();
    const int r = i / in_row;
    const int c = i % in_row * chunk;
    const bool inside = row + r < matrix.rows && column + c < matrix.columns;
    const bf16* from = inside ? matrix.first + (row + r) * matrix.columns + column + c : matrix.first;
    copy_async(shared + static_cast<std::uint32_t>(r * P::pitch + c) * 2, from, inside);
  }
}

// Four 8 × 8 matrices; a thread gives the address of one row of one of them.
template <bool transposed>
__device__ void load_matrices(std::uint32_t (&to)[4], std::uint32_t address) {
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// 16 × 16 of an operand at `outer` (rows of a, columns of c for b) and `sum`, in the order in which mma reads
// them: of a the matrices go down the outer dimension first, of b down the summed one.
template <bool sum_contiguous, bool outer_first>
__device__ void load_fragment(std::uint32_t (&to)[4], std::uint32_t part, int outer, int sum) {
  const int matrix = lane_index() / 8;
  const int row = lane_index() % 8;
  outer += (outer_first ? matrix % 2 : matrix / 2) * 8;
  sum += (outer_first ? matrix / 2 : matrix % 2) * 8;
  constexpr int pitch = Part<sum_contiguous>::pitch;
  const int at = sum_contiguous ? (outer + row) * pitch + sum : (sum + row) * pitch + outer;
  load_matrices<!sum_contiguous>(to, part + static_cast<std::uint32_t>(at) * 2);
}

// c [16, 8] += a [16, 16] · b [16, 8].
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

using Sums = float[warp_tile / 16][warp_tile / 8][4];

// One part of the summed dimension, for the 64 × 64 of this warp.
template <GroupedProduct product>
__device__ void multiply_part(Sums& sums, std::uint32_t a_part, std::uint32_t b_part, int row, int column) {
  using O = Operands<product>;
#pragma unroll
  for (int sum = 0; sum < depth; sum += 16) {
    std::uint32_t a[warp_tile / 16][4];
    std::uint32_t b[warp_tile / 16][4];
#pragma unroll
    for (int i = 0; i < warp_tile / 16; ++i) {
      load_fragment<O::a_sum, true>(a[i], a_part, row + 16 * i, sum);
      load_fragment<O::b_sum, false>(b[i], b_part, column + 16 * i, sum);
    }
#pragma unroll
    for (int i = 0; i < warp_tile / 16; ++i)
#pragma unroll
      for (int j = 0; j < warp_tile / 8; ++j)
        multiply_add(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
}

// sums = a · b over the whole summed dimension, for the tile at (i, j).
template <GroupedProduct product>
__device__ void multiply_tile(Sums& sums, const Matrix& a, const Matrix& b, std::int64_t i, std::int64_t j,
                              std::int64_t depth_total, int row, int column) {
  using O = Operands<product>;
  extern __shared__ __align__(16) unsigned char grouped_parts[];
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(grouped_parts));
  const auto part_of = [&](std::int64_t step) {
    return shared + static_cast<std::uint32_t>(step % stages) * O::stage_bytes;
  };
  const std::int64_t steps = (depth_total + depth - 1) / depth;
  const auto copy_step = [&](std::int64_t step) {
    const std::int64_t sum = step * depth;
    if (step < steps) {
      copy_part<typename O::A>(part_of(step), a, O::a_sum ? i : sum, O::a_sum ? sum : i);
      copy_part<typename O::B>(part_of(step) + O::A::bytes, b, O::b_sum ? j : sum, O::b_sum ? sum : j);
    }
    end_copies();  // empty ones too, so that counting them stays simple
  };
  for (int step = 0; step < stages - 1; ++step) copy_step(step);
  for (std::int64_t step = 0; step < steps; ++step) {
    wait_copies<stages - 2>();
    sync_threads();  // all copies of this step are there, and all threads are done with the one before
    copy_step(step + stages - 1);
    multiply_part<product>(sums, part_of(step), part_of(step) + O::A::bytes, row, column);
  }
}

// A thread holds pairs of neighbouring columns.
template <class C>
__device__ void store_sums(const Sums& sums, C* c, std::int64_t rows, std::int64_t columns, std::int64_t row,
                           std::int64_t column, bool accumulate) {
#pragma unroll
  for (int i = 0; i < warp_tile / 16; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t r = row + 16 * i + 8 * half + lane_index() / 4;
      if (r >= rows) continue;
#pragma unroll
      for (int j = 0; j < warp_tile / 8; ++j) {
        const std::int64_t k = column + 8 * j + lane_index() % 4 * 2;
        if (k >= columns) continue;
        C* to = c + r * columns + k;
        float x = sums[i][j][2 * half];
        float y = sums[i][j][2 * half + 1];
        if (accumulate) {
          const auto old = load_vector<2>(to);
          x += to_float(old.at[0]);
          y += to_float(old.at[1]);
        }
        store_vector<2>(to, Vector<C, 2>{{C(x), C(y)}});
      }
    }
}

struct RowTile {
  std::int64_t group = -1;  // none: there are fewer tiles
  std::int64_t begin = 0, end = 0;
  std::int64_t row = 0;  // within the group
};

// Tile number `index` when each group's rows are cut into tiles. By all threads of a warp.
__device__ inline RowTile find_rows(const std::int32_t* offsets, std::int64_t groups, std::int64_t index) {
  std::int64_t before = 0;
  for (std::int64_t first = 0; first < groups; first += warp_size) {
    const std::int64_t g = first + lane_index();
    const std::int64_t own = g < groups ? (offsets[g + 1] - offsets[g] + tile - 1) / tile : 0;
    std::int64_t up_to = own;
    for (int lanes = 1; lanes < warp_size; lanes *= 2) {
      const std::int64_t lower = __shfl_up_sync(whole_warp, up_to, static_cast<unsigned>(lanes));
      if (lane_index() >= lanes) up_to += lower;
    }
    const unsigned reached = __ballot_sync(whole_warp, before + up_to > index);
    if (reached != 0) {
      const int lane = __ffs(static_cast<int>(reached)) - 1;
      const std::int64_t group = first + lane;
      return {group, offsets[group], offsets[group + 1],
              (index - before - shuffle(up_to - own, lane)) * tile};
    }
    before += shuffle(up_to, warp_size - 1);
  }
  return {};
}

// c [R, columns], where b_g is [n, k]. Reads a and b_g once for each tile beside and below, writes c: with
// both in the L2 cache 2·R·(summed + columns) + 2·G·n·k bytes, and 2·R·n·k FLOP.
template <GroupedProduct product>
__global__ void __launch_bounds__(threads, 2)
    multiply_rows(const bf16* a, const bf16* b, bf16* c, const std::int32_t* offsets, std::int64_t groups,
                  std::int64_t n, std::int64_t k) {
  constexpr bool forward = product == GroupedProduct::output;
  const std::int64_t summed = forward ? k : n;
  const std::int64_t columns = forward ? n : k;
  const std::int64_t across = (columns + tile - 1) / tile;
  const RowTile rows = find_rows(offsets, groups, block_index() / across);
  if (rows.group < 0) return;
  const std::int64_t j = block_index() % across * tile;
  const std::int64_t count = rows.end - rows.begin;
  const int row = warp_index() / 2 * warp_tile;
  const int column = warp_index() % 2 * warp_tile;
  Sums sums = {};
  multiply_tile<product>(sums, {a + rows.begin * summed, count, summed}, {b + rows.group * n * k, n, k},
                         rows.row, j, summed, row, column);
  store_sums(sums, c + rows.begin * columns, count, columns, rows.row + row, j + column, false);
}

// c_g [n, k] (+)= a_gᵀ · b_g, summed over the group's rows.
__global__ void __launch_bounds__(threads, 2)
    multiply_weights(const bf16* a, const bf16* b, float* c, const std::int32_t* offsets, std::int64_t n,
                     std::int64_t k, bool accumulate) {
  const std::int64_t across = (k + tile - 1) / tile;
  const std::int64_t down = (n + tile - 1) / tile;
  const std::int64_t group = block_index() / (across * down);
  const std::int64_t i = block_index() / across % down * tile;
  const std::int64_t j = block_index() % across * tile;
  const std::int64_t begin = offsets[group];
  const std::int64_t count = offsets[group + 1] - begin;
  if (accumulate && count == 0) return;
  const int row = warp_index() / 2 * warp_tile;
  const int column = warp_index() % 2 * warp_tile;
  Sums sums = {};
  multiply_tile<GroupedProduct::weight_gradient>(sums, {a + begin * n, count, n}, {b + begin * k, count, k},
                                                 i, j, count, row, column);
  store_sums(sums, c + group * n * k, n, k, i + row, j + column, accumulate);
}

struct Sizes {
  std::int64_t groups, rows, n, k;  // of offsets, of all groups, of one group's matrix
};

Sizes sizes_of(const GroupedMatmulArgs& args) {
  const std::int64_t groups = args.offsets.numel() - 1;
  const Tensor& matrices = args.product == GroupedProduct::weight_gradient ? args.c : args.b;
  return {groups, args.a.size(0), matrices.size(0) / groups, matrices.size(1)};
}

bool can_run(const GroupedMatmulArgs& args) {
  const Sizes sizes = sizes_of(args);
  const DType result = args.product == GroupedProduct::weight_gradient ? DType::f32 : DType::bf16;
  return args.a.dtype() == DType::bf16 && args.b.dtype() == DType::bf16 && args.c.dtype() == result &&
         sizes.n % chunk == 0 && sizes.k % chunk == 0 && aligned(args.a.raw()) && aligned(args.b.raw()) &&
         aligned(args.c.raw());
}

template <GroupedProduct product>
void run_rows(const GroupedMatmulArgs& args, const Sizes& sizes) {
  // Every group may have one tile that is not full.
  const std::int64_t down = sizes.rows / tile + sizes.groups;
  const std::int64_t across = (args.c.size(1) + tile - 1) / tile;
  launch(args.c.device().stream(), multiply_rows<product>,
         {down * across, threads, std::size_t{stages} * Operands<product>::stage_bytes}, args.a.data<bf16>(),
         args.b.data<bf16>(), args.c.data<bf16>(), args.offsets.data<std::int32_t>(), sizes.groups, sizes.n,
         sizes.k);
}

void run_weights(const GroupedMatmulArgs& args, const Sizes& sizes) {
  const std::int64_t tiles = (sizes.n + tile - 1) / tile * ((sizes.k + tile - 1) / tile);
  launch(args.c.device().stream(), multiply_weights,
         {sizes.groups * tiles, threads,
          std::size_t{stages} * Operands<GroupedProduct::weight_gradient>::stage_bytes},
         args.a.data<bf16>(), args.b.data<bf16>(), args.c.data<float>(), args.offsets.data<std::int32_t>(),
         sizes.n, sizes.k, args.accumulate);
}

void run_grouped(const GroupedMatmulArgs& args, Workspace) {
  if (args.c.numel() == 0) return;
  const Sizes sizes = sizes_of(args);
  switch (args.product) {
    case GroupedProduct::output:
      return run_rows<GroupedProduct::output>(args, sizes);
    case GroupedProduct::input_gradient:
      return run_rows<GroupedProduct::input_gradient>(args, sizes);
    case GroupedProduct::weight_gradient:
      return run_weights(args, sizes);
  }
}

const Register<GroupedMatmulArgs> register_grouped(grouped_matmul_kernel(),
                                                   {DeviceKind::cuda, "mma", run_grouped, can_run});

}  // namespace
}  // namespace tessera::cuda
