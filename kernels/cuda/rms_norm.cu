#include "core/ops/rms_norm.h"

#include <algorithm>

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

// Where rows of a strided [outer, inner, n] tensor begin.
struct Rows {
  std::int64_t count, inner, outer_stride, inner_stride, n;
  explicit Rows(const Tensor& x)
      : count(x.size(0) * x.size(1)),
        inner(x.size(1)),
        outer_stride(x.stride(0)),
        inner_stride(x.stride(1)),
        n(x.size(2)) {}
  __device__ std::int64_t begin(std::int64_t row) const {
    return row / inner * outer_stride + row % inner * inner_stride;
  }
};

// A row is a warp's if it is short, else a block's; the sum over its threads. All of them call it.
__device__ float sum_of_row(float x, bool of_warp, Shared<float> scratch) {
  return of_warp ? warp_sum(x) : block_sum(x, scratch);
}

// Reads x (the second time from the cache) and writes y: 2 n elements a row.
template <class T, int width, int team>
__global__ void forward(const T* x, const T* weight, T* y, float* inverse, Rows rows, float eps) {
  SharedArena shared;
  const Shared<float> scratch = shared.array<float>(warp_size);
  const std::int64_t row = grid_index() / team;
  if (row >= rows.count) return;  // a whole warp, or none
  const int lane = thread_index() % team;
  const T* from = x + rows.begin(row);
  float squares = 0;
  for (std::int64_t i = lane * width; i < rows.n; i += team * width) {
    const Vector<T, width> v = load_vector<width>(from + i);
    for (int j = 0; j < width; ++j) squares += to_float(v.at[j]) * to_float(v.at[j]);
  }
  squares = sum_of_row(squares, team == warp_size, scratch);
  const float factor = 1.0F / std::sqrt(squares / static_cast<float>(rows.n) + eps);
  if (lane == 0) inverse[row] = factor;
  for (std::int64_t i = lane * width; i < rows.n; i += team * width) {
    const Vector<T, width> v = load_vector<width>(from + i);
    const Vector<T, width> w = load_vector<width>(weight + i);
    Vector<T, width> out;
    for (int j = 0; j < width; ++j)
      out.at[j] = T(to_float(w.at[j]) * to_float(T(to_float(v.at[j]) * factor)));
    store_vector(y + row * rows.n + i, out);
  }
}

// dx = (w dy − h mean(w dy h)) / rms with h = x / rms. Reads x and dy, writes dx: 3 n elements a row.
template <class T, int width, int team>
__global__ void backward_input(const T* x, const T* weight, const float* inverse, const T* dy, T* dx,
                               Rows rows) {
  SharedArena shared;
  const Shared<float> scratch = shared.array<float>(warp_size);
  const std::int64_t row = grid_index() / team;
  if (row >= rows.count) return;
  const int lane = thread_index() % team;
  const T* from = x + rows.begin(row);
  const T* gradient = dy + row * rows.n;
  float dot = 0;
  for (std::int64_t i = lane * width; i < rows.n; i += team * width) {
    const Vector<T, width> v = load_vector<width>(from + i);
    const Vector<T, width> g = load_vector<width>(gradient + i);
    const Vector<T, width> w = load_vector<width>(weight + i);
    for (int j = 0; j < width; ++j) dot += to_float(w.at[j]) * to_float(g.at[j]) * to_float(v.at[j]);
  }
  dot = sum_of_row(dot, team == warp_size, scratch);
  const float factor = inverse[row];
  const float mean = dot * factor * factor / static_cast<float>(rows.n);
  for (std::int64_t i = lane * width; i < rows.n; i += team * width) {
    const Vector<T, width> v = load_vector<width>(from + i);
    const Vector<T, width> g = load_vector<width>(gradient + i);
    const Vector<T, width> w = load_vector<width>(weight + i);
    Vector<T, width> out;
    for (int j = 0; j < width; ++j)
      out.at[j] = T(factor * (to_float(w.at[j]) * to_float(g.at[j]) - to_float(v.at[j]) * mean));
    store_vector(dx + row * rows.n + i, out);
  }
}

// How the sum over rows is cut, by shape alone: groups of rows, and threads of a block on columns.
struct Cut {
  std::int64_t group_rows, groups, column_threads, column_blocks;
  int row_lanes;
  Cut(const Rows& rows, int width) {
    constexpr int threads = 256;
    group_rows = rows.n <= 256 ? 512 : 64;
    groups = (rows.count + group_rows - 1) / group_rows;
    const std::int64_t vectors = (rows.n + width - 1) / width;
    column_threads = std::min<std::int64_t>(vectors, threads);
    column_blocks = (vectors + column_threads - 1) / column_threads;
    row_lanes = static_cast<int>(threads / column_threads);
  }
};

// Σ dy h over a group's rows, for the columns of a block: a row lane adds up every row_lanes-th row, then the
// lanes' sums are added in order. Reads x and dy once more.
template <class T, int width>
__global__ void weight_partials(const T* x, const float* inverse, const T* dy, float* partial, Rows rows,
                                Cut cut) {
  SharedArena shared;
  const Shared<float> sums = shared.array<float>(cut.row_lanes * cut.column_threads * width);
  const std::int64_t group = block_index() / cut.column_blocks;
  const std::int64_t column_thread = thread_index() % cut.column_threads;
  const std::int64_t column =
      (block_index() % cut.column_blocks * cut.column_threads + column_thread) * width;
  const int row_lane = static_cast<int>(thread_index() / cut.column_threads);
  const bool works = row_lane < cut.row_lanes && column < rows.n;
  float sum[width] = {};
  const std::int64_t end =
      (group + 1) * cut.group_rows < rows.count ? (group + 1) * cut.group_rows : rows.count;
  for (std::int64_t row = group * cut.group_rows + row_lane; works && row < end; row += cut.row_lanes) {
    const Vector<T, width> v = load_vector<width>(x + rows.begin(row) + column);
    const Vector<T, width> g = load_vector<width>(dy + row * rows.n + column);
    for (int j = 0; j < width; ++j) sum[j] += to_float(g.at[j]) * to_float(v.at[j]) * inverse[row];
  }
  if (works)
    for (int j = 0; j < width; ++j)
      sums[(row_lane * cut.column_threads + column_thread) * width + j] = sum[j];
  sync_threads();
  if (row_lane != 0 || !works) return;
  for (int j = 0; j < width; ++j) {
    float total = 0;
    for (int lane = 0; lane < cut.row_lanes; ++lane) {
      const float part = sums[(lane * cut.column_threads + column_thread) * width + j];
      total += part;
    }
    partial[group * rows.n + column + j] = total;
  }
}

// A warp a column: lanes add up every 32nd group, then in the warp's tree.
__global__ void sum_partials(const float* partial, float* dweight, std::int64_t groups, std::int64_t n,
                             bool accumulate) {
  const std::int64_t column = grid_index() / warp_size;
  if (column >= n) return;
  float sum = 0;
  for (std::int64_t group = lane_index(); group < groups; group += warp_size)
    sum += partial[group * n + column];
  sum = warp_sum(sum);
  if (lane_index() == 0) dweight[column] = accumulate ? dweight[column] + sum : sum;
}

bool is_wide(const Tensor& x, const Tensor& weight, std::int64_t width) {
  return x.size(2) % width == 0 && x.stride(0) % width == 0 && x.stride(1) % width == 0 && aligned(x.raw()) &&
         aligned(weight.raw());
}

// Calls f with the threads that share a row, and the grid for all rows.
template <class F>
void visit_team(const Rows& rows, F f) {
  constexpr int threads = 256;
  const std::size_t scratch = shared_size<float>(warp_size);
  if (rows.n <= 1024)
    f(std::integral_constant<int, warp_size>{},
      Grid{(rows.count + threads / warp_size - 1) / (threads / warp_size), threads, scratch});
  else
    f(std::integral_constant<int, threads>{}, Grid{rows.count, threads, scratch});
}

void run_forward(const RmsNormForward& args, Workspace) {
  const Rows rows(args.x);
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit_width<T>(is_wide(args.x, args.weight, widest<T>), [&](auto width) {
      visit_team(rows, [&](auto team, const Grid& grid) {
        launch(args.x.device().stream(), forward<T, width(), team()>, grid, args.x.data<T>(),
               args.weight.data<T>(), args.y.data<T>(), args.inverse.data<float>(), rows, args.eps);
      });
    });
  });
}

std::size_t backward_workspace(const RmsNormBackward& args) {
  const Rows rows(args.x);
  return static_cast<std::size_t>(Cut(rows, 1).groups * rows.n) * sizeof(float);
}

void run_backward(const RmsNormBackward& args, Workspace workspace) {
  const Rows rows(args.x);
  Stream& stream = args.x.device().stream();
  auto* partial = static_cast<float*>(workspace.address);
  std::int64_t groups = 0;
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit_width<T>(is_wide(args.x, args.weight, widest<T>), [&](auto width) {
      visit_team(rows, [&](auto team, const Grid& grid) {
        launch(stream, backward_input<T, width(), team()>, grid, args.x.data<T>(), args.weight.data<T>(),
               args.inverse.data<float>(), args.dy.data<T>(), args.dx.data<T>(), rows);
      });
      const Cut cut(rows, width());
      groups = cut.groups;
      launch(stream, weight_partials<T, width()>,
             Grid{cut.groups * cut.column_blocks, 256,
                  shared_size<float>(cut.row_lanes * cut.column_threads * width())},
             args.x.data<T>(), args.inverse.data<float>(), args.dy.data<T>(), partial, rows, cut);
    });
  });
  launch(stream, sum_partials, blocks_for(rows.n * warp_size), partial, args.dweight.data<float>(), groups,
         rows.n, args.accumulate);
}

const Register<RmsNormForward> register_forward(rms_norm_forward_kernel(),
                                                {DeviceKind::cuda, "rows", run_forward});
const Register<RmsNormBackward> register_backward(rms_norm_backward_kernel(),
                                                  {DeviceKind::cuda, "rows", run_backward, nullptr,
                                                   backward_workspace});

}  // namespace
}  // namespace tessera::cuda
