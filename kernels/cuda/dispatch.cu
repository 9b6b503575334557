#include "core/ops/dispatch.h"

#include <algorithm>

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

// Sorting: chunks of slots are counted, the counts become places, and each chunk puts its slots there; equal
// experts keep the order of their slots throughout.
constexpr std::int64_t chunk = 1024;
constexpr int chunk_threads = 256;

// Copies a chunk's experts; returns how many there are. Ends with a barrier.
__device__ std::int64_t load_chunk(const std::int32_t* indices, std::int64_t slots,
                                   Shared<std::int32_t> experts) {
  const std::int64_t begin = block_index() * chunk;
  const std::int64_t count = begin + chunk < slots ? chunk : slots - begin;
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) experts[i] = indices[begin + i];
  sync_threads();
  return count;
}

__global__ void count_chunks(const std::int32_t* indices, std::int32_t* counts, std::int64_t slots,
                             std::int64_t experts) {
  SharedArena shared;
  const Shared<std::int32_t> mine = shared.array<std::int32_t>(chunk);
  const std::int64_t count = load_chunk(indices, slots, mine);
  for (std::int64_t e = thread_index(); e < experts; e += thread_count()) {
    std::int32_t total = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t expert = mine[i];
      total += expert == e ? 1 : 0;
    }
    counts[block_index() * experts + e] = total;
  }
}

// One block. `places` holds each chunk's counts and becomes where its slots of an expert begin.
__global__ void place_chunks(std::int32_t* places, std::int32_t* counts, std::int64_t chunks,
                             std::int64_t experts) {
  SharedArena shared;
  const Shared<std::int32_t> begins = shared.array<std::int32_t>(experts);
  for (std::int64_t e = thread_index(); e < experts; e += thread_count()) {
    std::int32_t total = 0;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int32_t here = places[c * experts + e];
      places[c * experts + e] = total;
      total += here;
    }
    counts[e] = total;
    begins[e] = total;
  }
  sync_threads();
  if (thread_index() == 0) {
    std::int32_t begin = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int32_t here = begins[e];
      begins[e] = begin;
      begin += here;
    }
  }
  sync_threads();
  for (std::int64_t e = thread_index(); e < experts; e += thread_count()) {
    const std::int32_t begin = begins[e];
    for (std::int64_t c = 0; c < chunks; ++c) places[c * experts + e] += begin;
  }
}

__global__ void put_slots(const std::int32_t* indices, const std::int32_t* places, std::int32_t* order,
                          std::int32_t* inverse, std::int64_t slots, std::int64_t experts) {
  SharedArena shared;
  const Shared<std::int32_t> mine = shared.array<std::int32_t>(chunk);
  const std::int64_t count = load_chunk(indices, slots, mine);
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    const std::int32_t expert = mine[i];
    std::int32_t before = 0;
    for (std::int64_t j = 0; j < i; ++j) {
      const std::int32_t other = mine[j];
      before += other == expert ? 1 : 0;
    }
    const std::int32_t place = places[block_index() * experts + expert] + before;
    const std::int64_t slot = block_index() * chunk + i;
    order[place] = static_cast<std::int32_t>(slot);
    inverse[slot] = place;
  }
}

__global__ void count_offsets(const std::int32_t* counts, std::int32_t* offsets, std::int64_t n) {
  if (grid_index() != 0) return;
  std::int32_t total = 0;
  offsets[0] = 0;
  for (std::int64_t i = 0; i < n; ++i) offsets[i + 1] = total += counts[i];
}

// Reads and writes each row once: 2 n elements.
template <class T, int width>
__global__ void gather_rows(const T* in, const std::int32_t* index, const float* scale, T* out,
                            std::int64_t rows, std::int64_t n, std::int64_t group) {
  const std::int64_t vectors = n / width;
  for (std::int64_t i = grid_index(); i < rows * vectors; i += grid_stride()) {
    const std::int32_t from = index[i / vectors];
    const std::int64_t column = i % vectors * width;
    Vector<T, width> v;
    if (from < 0)
      for (int j = 0; j < width; ++j) v.at[j] = T(0.0F);
    else
      v = load_vector<width>(in + from / group * n + column);
    if (from >= 0 && scale != nullptr)
      for (int j = 0; j < width; ++j) v.at[j] = T(to_float(v.at[j]) * scale[from]);
    store_vector(out + i / vectors * n + column, v);
  }
}

// Reads k rows a token, writes one: (k + 1) n elements.
template <class T, int width>
__global__ void combine_rows(const T* rows, const std::int32_t* index, const float* scale, T* out,
                             std::int64_t tokens, std::int64_t n, std::int64_t k) {
  const std::int64_t vectors = n / width;
  for (std::int64_t i = grid_index(); i < tokens * vectors; i += grid_stride()) {
    const std::int64_t token = i / vectors;
    const std::int64_t column = i % vectors * width;
    float sum[width] = {};
    for (std::int64_t slot = token * k; slot < (token + 1) * k; ++slot) {
      const Vector<T, width> v = load_vector<width>(rows + index[slot] * n + column);
      const float factor = scale == nullptr ? 1.0F : scale[slot];
      for (int j = 0; j < width; ++j) sum[j] += factor * to_float(v.at[j]);
    }
    Vector<T, width> result;
    for (int j = 0; j < width; ++j) result.at[j] = T(sum[j]);
    store_vector(out + token * n + column, result);
  }
}

// A warp a slot. Reads two rows: 2 n elements.
template <class T, int width>
__global__ void row_dots(const T* rows, const std::int32_t* index, const T* with, float* out,
                         std::int64_t slots, std::int64_t n, std::int64_t k) {
  const std::int64_t slot = grid_index() / warp_size;
  if (slot >= slots) return;
  const T* a = rows + index[slot] * n;
  const T* b = with + slot / k * n;
  float dot = 0;
  for (std::int64_t i = lane_index() * width; i < n; i += warp_size * width) {
    const Vector<T, width> x = load_vector<width>(a + i);
    const Vector<T, width> y = load_vector<width>(b + i);
    for (int j = 0; j < width; ++j) dot += to_float(x.at[j]) * to_float(y.at[j]);
  }
  dot = warp_sum(dot);
  if (lane_index() == 0) out[slot] = dot;
}

std::int64_t chunks_of(const SortSlotsArgs& args) {
  return (args.indices.numel() + chunk - 1) / chunk;
}

std::size_t sort_workspace(const SortSlotsArgs& args) {
  return static_cast<std::size_t>(chunks_of(args) * args.counts.numel()) * sizeof(std::int32_t);
}

void run_sort_slots(const SortSlotsArgs& args, Workspace workspace) {
  Stream& stream = args.order.device().stream();
  const std::int64_t experts = args.counts.numel();
  const std::int64_t slots = args.indices.numel();
  const auto* indices = args.indices.data<std::int32_t>();
  auto* places = static_cast<std::int32_t*>(workspace.address);
  const Grid grid{chunks_of(args), chunk_threads, shared_size<std::int32_t>(chunk)};
  launch(stream, count_chunks, grid, indices, places, slots, experts);
  launch(stream, place_chunks, Grid{1, 512, shared_size<std::int32_t>(experts)}, places,
         args.counts.data<std::int32_t>(), chunks_of(args), experts);
  launch(stream, put_slots, grid, indices, places, args.order.data<std::int32_t>(),
         args.inverse.data<std::int32_t>(), slots, experts);
}

void run_count_offsets(const CountOffsetsArgs& args, Workspace) {
  launch(args.offsets.device().stream(), count_offsets, Grid{1, warp_size}, args.counts.data<std::int32_t>(),
         args.offsets.data<std::int32_t>(), args.counts.numel());
}

const float* scale_of(const Tensor& scale) {
  return scale.defined() ? scale.data<float>() : nullptr;
}

void run_gather_rows(const GatherRowsArgs& args, Workspace) {
  const std::int64_t n = args.out.size(1);
  const std::int64_t rows = args.index.numel();
  visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = n % widest<T> == 0 && aligned(args.in.raw()) && aligned(args.out.raw());
    visit_width<T>(wide, [&](auto width) {
      launch(args.out.device().stream(), gather_rows<T, width()>, blocks_for(rows * n, width()),
             args.in.data<T>(), args.index.data<std::int32_t>(), scale_of(args.scale), args.out.data<T>(),
             rows, n, args.group);
    });
  });
}

void run_combine_rows(const CombineRowsArgs& args, Workspace) {
  const std::int64_t tokens = args.out.size(0);
  const std::int64_t n = args.out.size(1);
  if (tokens == 0) return;
  visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = n % widest<T> == 0 && aligned(args.rows.raw()) && aligned(args.out.raw());
    visit_width<T>(wide, [&](auto width) {
      launch(args.out.device().stream(), combine_rows<T, width()>, blocks_for(tokens * n, width()),
             args.rows.data<T>(), args.index.data<std::int32_t>(), scale_of(args.scale), args.out.data<T>(),
             tokens, n, args.index.numel() / tokens);
    });
  });
}

void run_row_dots(const RowDotsArgs& args, Workspace) {
  const std::int64_t n = args.with.size(1);
  const std::int64_t slots = args.index.numel();
  const std::int64_t k = slots / std::max<std::int64_t>(1, args.with.size(0));
  visit(args.with.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = n % widest<T> == 0 && aligned(args.rows.raw()) && aligned(args.with.raw());
    visit_width<T>(wide, [&](auto width) {
      launch(args.out.device().stream(), row_dots<T, width()>, blocks_for(slots * warp_size),
             args.rows.data<T>(), args.index.data<std::int32_t>(), args.with.data<T>(),
             args.out.data<float>(), slots, n, k);
    });
  });
}

const Register<SortSlotsArgs> register_sort(sort_slots_kernel(), {DeviceKind::cuda, "chunks", run_sort_slots,
                                                                  nullptr, sort_workspace});
const Register<CountOffsetsArgs> register_offsets(count_offsets_kernel(),
                                                  {DeviceKind::cuda, "plain", run_count_offsets});
const Register<GatherRowsArgs> register_gather(gather_rows_kernel(),
                                               {DeviceKind::cuda, "vector", run_gather_rows});
const Register<CombineRowsArgs> register_combine(combine_rows_kernel(),
                                                 {DeviceKind::cuda, "vector", run_combine_rows});
const Register<RowDotsArgs> register_dots(row_dots_kernel(), {DeviceKind::cuda, "warps", run_row_dots});

}  // namespace
}  // namespace tessera::cuda
