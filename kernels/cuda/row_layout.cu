#include "core/ops/row_layout.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int scan_threads = 256;

// Over a block, each thread's number becomes the sum of those of the threads before it. `sums`: an element a
// thread. Ends with a barrier.
__device__ std::int32_t sum_before(std::int32_t mine, Shared<std::int32_t> sums) {
  const int i = thread_index();
  sums[i] = mine;
  sync_threads();
  std::int32_t total = mine;
  for (int reach = 1; reach < thread_count(); reach *= 2) {
    std::int32_t lower = 0;
    if (i >= reach) lower = sums[i - reach];
    sync_threads();
    total += lower;
    sums[i] = total;
    sync_threads();
  }
  return total - mine;
}

// One block. Where each source's groups begin among its slots, starts [sources, groups + 1], cut off at the
// capacity; and where the rows of (group, source) begin among compact ones, begins [groups · sources + 1].
// There are as many as experts times the ranks that share one: few.
__global__ void find_begins(const std::int32_t* counts, std::int32_t* starts, std::int32_t* begins,
                            std::int32_t* offsets, double* over, std::int64_t sources, std::int64_t groups,
                            std::int64_t parts, std::int64_t capacity) {
  SharedArena arena;
  const Shared<std::int32_t> sums = arena.array<std::int32_t>(scan_threads);
  std::int64_t most = 0;
  for (std::int64_t s = thread_index(); s < sources; s += thread_count()) {
    std::int64_t rows = 0;
    starts[s * (groups + 1)] = 0;
    for (std::int64_t x = 0; x < groups; ++x) {
      for (std::int64_t m = 0; m < parts; ++m) rows += counts[(s * groups + x) * parts + m];
      starts[s * (groups + 1) + x + 1] = static_cast<std::int32_t>(rows < capacity ? rows : capacity);
    }
    most = rows > most ? rows : most;
  }
  sums[thread_index()] = static_cast<std::int32_t>(most);
  sync_threads();
  if (thread_index() == 0) {
    std::int32_t top = 0;
    for (int i = 0; i < thread_count(); ++i) {
      const std::int32_t other = sums[i];
      top = other > top ? other : top;
    }
    if (top > capacity && static_cast<double>(top) > over[0]) over[0] = static_cast<double>(top);
  }
  sync_threads();
  // A thread has a run of neighbours, in order of (group, source).
  const std::int64_t all = groups * sources;
  const std::int64_t run = (all + thread_count() - 1) / thread_count();
  const std::int64_t first = thread_index() * run < all ? thread_index() * run : all;
  const std::int64_t last = first + run < all ? first + run : all;
  const auto count = [=](std::int64_t i) {
    const std::int32_t* start = starts + i % sources * (groups + 1) + i / sources;
    return start[1] - start[0];
  };
  std::int32_t rows = 0;
  for (std::int64_t i = first; i < last; ++i) rows += count(i);
  std::int32_t begin = sum_before(rows, sums);
  for (std::int64_t i = first; i < last; ++i) {
    begins[i] = begin;
    if (i % sources == 0) offsets[i / sources] = begin;
    begin += count(i);
    if (i + 1 == all) begins[all] = offsets[groups] = begin;
  }
}

// The largest i of `n` for which at[i] ≤ value, at[0] ≤ value: of equal ones the last, so that a group
// without rows is passed over.
__device__ std::int64_t last_not_above(const std::int32_t* at, std::int64_t n, std::int64_t value) {
  std::int64_t low = 0;
  std::int64_t high = n;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (at[middle] <= value)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// A thread for a slot and the compact row of the same number.
__global__ void find_places(const std::int32_t* starts, const std::int32_t* begins, std::int32_t* to_slot,
                            std::int32_t* from_slot, std::int64_t sources, std::int64_t groups,
                            std::int64_t capacity) {
  for (std::int64_t i = grid_index(); i < sources * capacity; i += grid_stride()) {
    std::int64_t slot = -1;
    if (i < begins[groups * sources]) {
      const std::int64_t of = last_not_above(begins, groups * sources, i);
      const std::int64_t source = of % sources;
      slot = source * capacity + starts[source * (groups + 1) + of / sources] + i - begins[of];
    }
    to_slot[i] = static_cast<std::int32_t>(slot);
    const std::int64_t source = i / capacity;
    const std::int64_t place = i % capacity;
    const std::int32_t* mine = starts + source * (groups + 1);
    std::int64_t row = -1;
    if (place < mine[groups]) {
      const std::int64_t group = last_not_above(mine, groups, place);
      row = begins[group * sources + source] + place - mine[group];
    }
    from_slot[i] = static_cast<std::int32_t>(row);
  }
}

// Starts, then begins.
std::size_t lay_out_workspace(const LayOutRowsArgs& args) {
  const std::int64_t sources = args.counts.size(0);
  const std::int64_t groups = args.counts.size(1);
  return static_cast<std::size_t>(sources * (groups + 1) + sources * groups + 1) * sizeof(std::int32_t);
}

void run_lay_out_rows(const LayOutRowsArgs& args, Workspace workspace) {
  Stream& stream = args.counts.device().stream();
  const std::int64_t sources = args.counts.size(0);
  const std::int64_t groups = args.counts.size(1);
  const std::int64_t capacity = args.to_slot.numel() / sources;
  auto* starts = static_cast<std::int32_t*>(workspace.address);
  std::int32_t* begins = starts + sources * (groups + 1);
  launch(stream, find_begins, Grid{1, scan_threads, shared_size<std::int32_t>(scan_threads)},
         args.counts.data<std::int32_t>(), starts, begins, args.offsets.data<std::int32_t>(),
         args.over.data<double>(), sources, groups, args.counts.size(2), capacity);
  launch(stream, find_places, blocks_for(sources * capacity), starts, begins,
         args.to_slot.data<std::int32_t>(), args.from_slot.data<std::int32_t>(), sources, groups, capacity);
}

const Register<LayOutRowsArgs> register_lay_out(lay_out_rows_kernel(),
                                                {DeviceKind::cuda, "scan", run_lay_out_rows, nullptr,
                                                 lay_out_workspace});

}  // namespace
}  // namespace tessera::cuda
