// Copies between views, and concatenation: rows of contiguous elements at any strides.
#include <cassert>

#include "core/ops/split.h"
#include "core/tensor/elementwise.h"
#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t turns = 4;  // a thread's vectors of one row; longer rows take several blocks

enum class Move { copy, add, clear };

// `rows` rows of `width` elements; row (i, j, k) of sizes n lies at the sum of index · stride.
struct Rows {
  std::int64_t rows = 1, width = 1;
  std::int64_t n[3] = {1, 1, 1};
  std::int64_t from[3] = {}, to[3] = {};
  std::int64_t cuts = 1;  // of a row, a block each
  int lanes = threads;    // that share a row or its cut
};

__device__ std::int64_t quotient(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  return a / b;
}

// Reads `from`, unless it clears, writes `to` and, adding, reads it: 4 bytes an element copied in bf16.
template <class T, int w, Move move>
__global__ void move_rows(const T* from, T* to, Rows at) {
  const std::int64_t per_block = thread_count() / at.lanes;
  const std::int64_t row = block_index() / at.cuts * per_block + thread_index() / at.lanes;
  if (row >= at.rows) return;
  const std::int64_t outer = quotient(row, at.n[2]);
  const std::int64_t i = quotient(outer, at.n[1]);
  const std::int64_t j = outer - i * at.n[1];
  const std::int64_t k = row - outer * at.n[2];
  const std::int64_t x = i * at.from[0] + j * at.from[1] + k * at.from[2];
  T* y = to + (i * at.to[0] + j * at.to[1] + k * at.to[2]);
  const std::int64_t step = std::int64_t{at.lanes} * w;
  const std::int64_t begin = block_index() % at.cuts * turns * step;
  const std::int64_t end = begin + turns * step < at.width ? begin + turns * step : at.width;
  for (std::int64_t e = begin + thread_index() % at.lanes * w; e < end; e += step) {
    Vector<T, w> value = {};
    if constexpr (move != Move::clear) value = load_vector<w>(from + (x + e));
    if constexpr (move == Move::add) {
      const Vector<T, w> before = load_vector<w>(static_cast<const T*>(y + e));
      for (int v = 0; v < w; ++v) value.at[v] = T(to_float(before.at[v]) + to_float(value.at[v]));
    }
    store_vector(y + e, value);
  }
}

bool multiples(const Rows& at, std::int64_t w) {
  bool all = at.width % w == 0;
  for (int d = 0; d < 3; ++d) all = all && (at.n[d] == 1 || (at.from[d] % w == 0 && at.to[d] % w == 0));
  return all;
}

template <class T, Move move>
void launch_move(Stream& stream, const void* from, void* to, Rows at) {
  const bool wide = aligned(from) && aligned(to) && multiples(at, widest<T>);
  visit_width<T>(wide, [&](auto width) {
    constexpr int w = decltype(width)::value;
    at.lanes = 1;
    while (at.lanes < threads && at.lanes * w < at.width) at.lanes *= 2;
    const std::int64_t per_block = threads / at.lanes;
    const std::int64_t cut = turns * at.lanes * w;
    at.cuts = (at.width + cut - 1) / cut;
    launch(stream, move_rows<T, w, move>, {(at.rows + per_block - 1) / per_block * at.cuts, threads, 0},
           static_cast<const T*>(from), static_cast<T*>(to), at);
  });
}

// Calls f with an unsigned value of as many bytes.
template <class F>
void visit_bytes(std::size_t bytes, F f) {
  if (bytes == 1)
    f(std::uint8_t{});
  else if (bytes == 2)
    f(std::uint16_t{});
  else if (bytes == 4)
    f(std::uint32_t{});
  else
    f(std::uint64_t{});
}

void run_strided_copy(const StridedCopyArgs& args, Workspace) {
  if (args.to.numel() == 0) return;
  const int rank = args.to.rank();
  assert(rank <= 4);
  Rows at;
  at.width = rank == 0 ? 1 : args.to.size(-1);
  at.rows = args.to.numel() / at.width;
  for (int d = 0; d + 1 < rank; ++d) {
    const int slot = 3 - (rank - 1) + d;
    at.n[slot] = args.to.size(d);
    at.from[slot] = args.from.stride(d);
    at.to[slot] = args.to.stride(d);
  }
  Stream& stream = args.to.device().stream();
  if (args.accumulate)
    visit(args.to.dtype(), [&](auto tag) {
      launch_move<decltype(tag), Move::add>(stream, args.from.raw(), args.to.raw(), at);
    });
  else
    visit_bytes(bytes_per_element(args.to.dtype()), [&](auto tag) {
      launch_move<decltype(tag), Move::copy>(stream, args.from.raw(), args.to.raw(), at);
    });
}

void run_concatenate(const ConcatenateArgs& args, Workspace) {
  if (args.out.numel() == 0) return;
  const std::int64_t total = args.out.size(-1);
  Stream& stream = args.out.device().stream();
  visit_bytes(bytes_per_element(args.out.dtype()), [&](auto tag) {
    using T = decltype(tag);
    T* out = static_cast<T*>(args.out.raw());
    for (std::size_t i = 0; i < args.parts.size(); ++i) {
      Rows at;
      at.width = args.sizes[i];
      at.rows = at.n[2] = args.out.numel() / total;
      at.from[2] = at.width;
      at.to[2] = total;
      if (at.width == 0) continue;
      if (args.parts[i].defined())
        launch_move<T, Move::copy>(stream, args.parts[i].raw(), out, at);
      else
        launch_move<T, Move::clear>(stream, nullptr, out, at);
      out += at.width;
    }
  });
}

const Register<StridedCopyArgs> register_strided_copy(strided_copy_kernel(),
                                                      {DeviceKind::cuda, "vector", run_strided_copy});
const Register<ConcatenateArgs> register_concatenate(concatenate_kernel(),
                                                     {DeviceKind::cuda, "vector", run_concatenate});

}  // namespace
}  // namespace tessera::cuda
