// Embedding: rows by id; the gradient sums the tokens of an id along a list in their order.
#include "core/ops/embedding.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int tile = 128;

// A block per token. Reads a row, writes a row: 4 hidden bytes in bf16.
template <class T, int w>
__global__ void forward(const std::int32_t* ids, const T* weight, T* out, std::int64_t first,
                        std::int64_t vocab, std::int64_t hidden) {
  const std::int64_t token = block_index();
  const std::int64_t row = ids[token] - first;
  const bool known = row >= 0 && row < vocab;
  for (std::int64_t i = std::int64_t{thread_index()} * w; i < hidden; i += std::int64_t{thread_count()} * w) {
    Vector<T, w> value = {};
    if (known) value = load_vector<w>(weight + row * hidden + i);
    store_vector(out + token * hidden + i, value);
  }
}

void run_forward(const EmbeddingForward& args, Workspace) {
  const std::int64_t hidden = args.weight.size(1);
  visit(args.weight.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = aligned(args.weight.raw()) && aligned(args.out.raw()) && hidden % widest<T> == 0;
    visit_width<T>(wide, [&](auto width) {
      launch(args.out.device().stream(), forward<T, decltype(width)::value>, {args.tokens.numel(), 256, 0},
             args.tokens.data<std::int32_t>(), args.weight.data<T>(), args.out.data<T>(), args.first,
             args.weight.size(0), hidden);
    });
  });
}

template <class T, int w>
__global__ void clear(T* x, std::int64_t n) {
  const Vector<T, w> zeros = {};
  for (std::int64_t i = grid_index(); i < n / w; i += grid_stride()) store_vector(x + i * w, zeros);
  for (std::int64_t i = n / w * w + grid_index(); i < n; i += grid_stride()) x[i] = T{};
}

// next[i]: the token after i of the same id, or −1; follows[next[i]] = 1, of which each has one writer.
// Compares pairs of tokens: n² / 2 at most, through tiles of ids in shared memory.
__global__ void link(const std::int32_t* ids, std::int32_t* next, std::int32_t* follows, std::int64_t n) {
  SharedArena arena;
  const Shared<std::int32_t> seen = arena.array<std::int32_t>(tile);
  const std::int64_t token = block_index() * tile + thread_index();
  const std::int32_t id = token < n ? ids[token] : 0;
  std::int64_t found = -1;
  for (std::int64_t begin = block_index() * tile; begin < n; begin += tile) {
    sync_threads();
    seen[thread_index()] = begin + thread_index() < n ? ids[begin + thread_index()] : 0;
    sync_threads();
    if (found >= 0) continue;
    // Downwards, so that the nearest stays.
    const int end = n - begin < tile ? static_cast<int>(n - begin) : tile;
    for (int i = end - 1; i >= 0; --i) {
      const std::int32_t other = seen[i];
      if (other == id && begin + i > token) found = begin + i;
    }
  }
  if (token >= n) return;
  next[token] = static_cast<std::int32_t>(found);
  if (found >= 0) follows[found] = 1;
}

// A block per token, which does nothing unless it is the first of its id. Reads dout and writes, or adds to,
// a row for each id: 2 hidden bytes per token in bf16 and 4 hidden per id.
template <class T, int w>
__global__ void sum_tokens(const std::int32_t* ids, const std::int32_t* next, const std::int32_t* follows,
                           const T* dout, float* dweight, std::int64_t first, std::int64_t vocab,
                           std::int64_t hidden, bool accumulate) {
  const std::int64_t row = ids[block_index()] - first;
  if (row < 0 || row >= vocab || follows[block_index()] != 0) return;
  constexpr int step = w < 4 ? w : 4;
  for (std::int64_t i = std::int64_t{thread_index()} * w; i < hidden; i += std::int64_t{thread_count()} * w) {
    float* to = dweight + row * hidden + i;
    float sums[w] = {};
    if (accumulate)
      for (int j = 0; j < w; ++j) sums[j] = to[j];
    for (std::int64_t token = block_index(); token >= 0; token = next[token]) {
      const Vector<T, w> value = load_vector<w>(dout + token * hidden + i);
      for (int j = 0; j < w; ++j) sums[j] += to_float(value.at[j]);
    }
    for (int j = 0; j < w; j += step) {
      Vector<float, step> out;
      for (int k = 0; k < step; ++k) out.at[k] = sums[j + k];
      store_vector(to + j, out);
    }
  }
}

std::size_t backward_workspace(const EmbeddingBackward& args) {
  return 2 * static_cast<std::size_t>(args.tokens.numel()) * sizeof(std::int32_t);
}

void run_backward(const EmbeddingBackward& args, Workspace workspace) {
  const std::int64_t n = args.tokens.numel();
  const std::int64_t vocab = args.dweight.size(0);
  const std::int64_t hidden = args.dweight.size(1);
  Stream& stream = args.dout.device().stream();
  auto* next = static_cast<std::int32_t*>(workspace.address);
  auto* follows = next + n;
  const auto* ids = args.tokens.data<std::int32_t>();
  if (!args.accumulate)
    visit_width<float>(aligned(args.dweight.raw()), [&](auto width) {
      constexpr int w = decltype(width)::value;
      launch(stream, clear<float, w>, blocks_for(vocab * hidden, w), args.dweight.data<float>(),
             vocab * hidden);
    });
  launch(stream, clear<std::int32_t, 1>, blocks_for(n), follows, n);
  launch(stream, link, {(n + tile - 1) / tile, tile, shared_size<std::int32_t>(tile)}, ids, next, follows, n);
  visit(args.dout.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = aligned(args.dout.raw()) && aligned(args.dweight.raw()) && hidden % widest<T> == 0;
    visit_width<T>(wide, [&](auto width) {
      launch(stream, sum_tokens<T, decltype(width)::value>, {n, 256, 0}, ids, next, follows,
             args.dout.data<T>(), args.dweight.data<float>(), args.first, vocab, hidden, args.accumulate);
    });
  });
}

const Register<EmbeddingForward> register_forward(embedding_forward_kernel(),
                                                  {DeviceKind::cuda, "vector", run_forward});
const Register<EmbeddingBackward> register_backward(embedding_backward_kernel(),
                                                    {.device = DeviceKind::cuda,
                                                     .name = "by_list",
                                                     .run = run_backward,
                                                     .workspace_bytes = backward_workspace});

}  // namespace
}  // namespace tessera::cuda
