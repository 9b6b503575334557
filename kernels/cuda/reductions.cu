// The tree's sum of parts and sums of squares.
#include "core/tensor/reductions.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int most = static_cast<int>(most_tree_parts);
constexpr int levels = 7;  // of a tree over up to 64 leaves

// Subtrees of 2^l leaves wait in level l for their right neighbours, so that leaves are read in order; those
// left over combine from the right, as tree_split cuts.
template <class T, int w>
__device__ Vector<T, w> tree_at(const Pointers<const T, most>& parts, int count, std::int64_t i) {
  float level[levels][w] = {};
  for (int p = 0; p < count; ++p) {
    const Vector<T, w> leaf = load_vector<w>(parts.at[p] + i);
    float sum[w];
    for (int j = 0; j < w; ++j) sum[j] = to_float(leaf.at[j]);
    bool carry = true;
    for (int l = 0; l < levels; ++l) {
      const bool joins = (p >> l & 1) != 0;
      for (int j = 0; j < w; ++j) {
        if (carry && joins) sum[j] = level[l][j] + sum[j];
        if (carry && !joins) level[l][j] = sum[j];
      }
      carry = carry && joins;
    }
  }
  float total[w] = {};
  bool any = false;
  for (int l = 0; l < levels; ++l) {
    if ((count >> l & 1) == 0) continue;
    for (int j = 0; j < w; ++j) total[j] = any ? level[l][j] + total[j] : level[l][j];
    any = true;
  }
  Vector<T, w> out;
  for (int j = 0; j < w; ++j) out.at[j] = T(total[j]);
  return out;
}

// Two parts, the usual count, without the levels' registers.
template <class T, int w>
__device__ Vector<T, w> pair_at(const Pointers<const T, most>& parts, std::int64_t i) {
  const Vector<T, w> a = load_vector<w>(parts.at[0] + i);
  const Vector<T, w> b = load_vector<w>(parts.at[1] + i);
  Vector<T, w> out;
  for (int j = 0; j < w; ++j) out.at[j] = T(to_float(a.at[j]) + to_float(b.at[j]));
  return out;
}

// Reads the parts, writes out: 2 (count + 1) bytes an element in bf16. `out` may be one of the parts: a
// thread has read an element of all before it writes it.
template <class T, int w, bool pair>
__global__ void sum_parts(Pointers<const T, most> parts, int count, T* out, std::int64_t n) {
  const std::int64_t vectors = n / w;
  for (std::int64_t i = grid_index(); i < vectors; i += grid_stride()) {
    if constexpr (pair)
      store_vector(out + i * w, pair_at<T, w>(parts, i * w));
    else
      store_vector(out + i * w, tree_at<T, w>(parts, count, i * w));
  }
  for (std::int64_t i = vectors * w + grid_index(); i < n; i += grid_stride())
    out[i] = tree_at<T, 1>(parts, count, i).at[0];
}

void run_tree_sum(const TreeSumArgs& args, Workspace) {
  const std::int64_t n = args.out.numel();
  const int count = static_cast<int>(args.parts.size());
  visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    Pointers<const T, most> parts;
    bool wide = aligned(args.out.raw());
    for (int p = 0; p < count; ++p) {
      parts.at[p] = args.parts[static_cast<std::size_t>(p)].template data<T>();
      wide = wide && aligned(parts.at[p]);
    }
    visit_width<T>(wide, [&](auto width) {
      constexpr int w = decltype(width)::value;
      Stream& stream = args.out.device().stream();
      T* out = args.out.template data<T>();
      if (count == 2)
        launch(stream, sum_parts<T, w, true>, blocks_for(n, w), parts, count, out, n);
      else
        launch(stream, sum_parts<T, w, false>, blocks_for(n, w), parts, count, out, n);
    });
  });
}

// A thread block per block of x. Reads x: 4 bytes an element. Threads take groups of four in turn, whatever
// the alignment, then add up in a tree.
template <int w>
__global__ void sum_squares(const float* x, double* out, std::int64_t block, std::int64_t n) {
  SharedArena arena;
  const Shared<double> scratch = arena.array<double>(32);
  const std::int64_t begin = block_index() * block;
  const std::int64_t size = n - begin < block ? n - begin : block;
  double sums[4] = {};
  for (std::int64_t i = std::int64_t{thread_index()} * 4; i < size; i += std::int64_t{thread_count()} * 4) {
    float value[4] = {};
    if (w == 4 && i + 4 <= size) {
      const Vector<float, w> four = load_vector<w>(x + begin + i);
      for (int j = 0; j < w; ++j) value[j] = four.at[j];
    } else {
      for (int j = 0; j < 4 && i + j < size; ++j) value[j] = x[begin + i + j];
    }
    for (int j = 0; j < 4; ++j) sums[j] += static_cast<double>(value[j]) * static_cast<double>(value[j]);
  }
  const double total = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch);
  if (thread_index() == 0) out[block_index()] = total;
}

void run_square_sums(const SquareSumsArgs& args, Workspace) {
  visit_width<float>(aligned(args.x.raw()) && args.block % widest<float> == 0, [&](auto width) {
    launch(args.x.device().stream(), sum_squares<decltype(width)::value>,
           {args.out.numel(), 256, shared_size<double>(32)}, args.x.data<float>(), args.out.data<double>(),
           args.block, args.x.numel());
  });
}

// A thread per run. Few numbers: one for each microbatch, or for each sixteen rows of a parameter.
__global__ void sum_of_runs(const double* x, const std::int32_t* order, std::int64_t count, std::int64_t run,
                            double* out, std::int64_t runs) {
  const std::int64_t r = grid_index();
  if (r >= runs) return;
  const std::int64_t end = (r + 1) * run < count ? (r + 1) * run : count;
  double sum = 0;
  for (std::int64_t i = r * run; i < end; ++i) sum += x[order != nullptr ? order[i] : i];
  out[r] = sum;
}

void run_sum_runs(const SumRunsArgs& args, Workspace) {
  const std::int32_t* order = args.order.defined() ? args.order.data<std::int32_t>() : nullptr;
  const std::int64_t count = args.order.defined() ? args.order.numel() : args.x.numel();
  launch(args.x.device().stream(), sum_of_runs, blocks_for(args.out.numel(), 1, 64), args.x.data<double>(),
         order, count, args.run, args.out.data<double>(), args.out.numel());
}

const Register<TreeSumArgs> register_tree_sum(tree_sum_kernel(), {DeviceKind::cuda, "vector", run_tree_sum});
const Register<SquareSumsArgs> register_square_sums(square_sums_kernel(),
                                                    {DeviceKind::cuda, "vector", run_square_sums});
const Register<SumRunsArgs> register_sum_runs(sum_runs_kernel(), {DeviceKind::cuda, "plain", run_sum_runs});

}  // namespace
}  // namespace tessera::cuda
