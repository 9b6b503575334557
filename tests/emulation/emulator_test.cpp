// The emulator must report every kind of broken kernel, and pass the same kernel when it is right.

#include "tests/emulation/kernels_test.h"

namespace tessera::cuda {
namespace {

using emulation::EmulatedCudaDevice;
using emulation::expect_fault;
using emulation::expect_right;
using emulation::floats;
using emulation::on_host;

enum class Fault { none, missing, divergent, other };

// Runs kernel(y) in one block of 64 threads.
template <class... P>
auto one_block(void (*kernel)(P...), std::size_t shared_bytes = 4096) {
  return [=](EmulatedCudaDevice& device) {
    const Tensor y = floats(device, 64);
    launch(device.stream(), kernel, Grid{1, 64, shared_bytes}, y.data<float>());
  };
}

// y[i] = 63 − i, by way of shared memory.
template <Fault fault>
__global__ void reverse(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(64);
  row[thread_index()] = static_cast<float>(thread_index());
  if (fault == Fault::none) sync_threads();
  if (fault == Fault::other) sync_warp();  // orders threads of one warp only
  const float other = row[63 - thread_index()];
  y[thread_index()] = other;
}

TEST(Emulator, ReportsAMissingBarrier) {
  expect_right(one_block(reverse<Fault::none>));
  expect_fault("of shared array 0, which", one_block(reverse<Fault::missing>));
  expect_fault("of shared array 0, which", one_block(reverse<Fault::other>));
}

// A barrier is missing between reads and the next round's writes.
template <Fault fault>
__global__ void rounds(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(64);
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    row[thread_index()] = static_cast<float>(round);
    sync_threads();
    const float other = row[(thread_index() + 1) % 64];
    sum += other;
    if (fault == Fault::none) sync_threads();
  }
  y[thread_index()] = sum;
}

TEST(Emulator, ReportsAMissingBarrierBeforeMemoryIsUsedAgain) {
  expect_right(one_block(rounds<Fault::none>));
  expect_fault("with no barrier between", one_block(rounds<Fault::missing>));
}

// Neighbours of a warp exchange through shared memory, in step by sync_warp().
template <Fault fault>
__global__ void swap_neighbours(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(64);
  row[thread_index()] = static_cast<float>(thread_index());
  if (fault == Fault::none) sync_warp();
  const float other = row[thread_index() ^ 1];
  if (fault != Fault::missing) sync_warp();
  row[thread_index()] = other;
  const float mine = row[thread_index()];
  y[thread_index()] = mine;
}

TEST(Emulator, ReportsAMissingWarpBarrier) {
  expect_right(one_block(swap_neighbours<Fault::none>));
  expect_fault("of shared array 0, which", one_block(swap_neighbours<Fault::missing>));
  expect_fault("of shared array 0, which", one_block(swap_neighbours<Fault::other>));
}

template <Fault fault>
__global__ void all_write_one(float* y) {
  SharedArena arena;
  const Shared<float> one = arena.array<float>(1);
  if (fault != Fault::none || thread_index() == 0) one[0] = 1;
  sync_threads();
  const float value = one[0];
  y[thread_index()] = value;
}

TEST(Emulator, ReportsTwoWritersOfOneElement) {
  expect_right(one_block(all_write_one<Fault::none>));
  expect_fault("writes element 0 of shared array 0, which thread", one_block(all_write_one<Fault::missing>));
}

template <Fault fault>
__global__ void diverge(float* y) {
  if (fault == Fault::divergent) {  // some are gone
    if (thread_index() >= 40) return;
    sync_threads();
  } else if (fault == Fault::other) {  // two barriers, each met by a half
    if (thread_index() < 32)
      sync_threads();
    else
      sync_threads();
  } else if (fault == Fault::missing) {  // some wait for their warp
    if (thread_index() % 32 < 16)
      sync_threads();
    else
      sync_warp();
  } else {
    sync_threads();
  }
  y[thread_index()] = 1;
}

TEST(Emulator, ReportsADivergentBarrier) {
  expect_right(one_block(diverge<Fault::none>));
  expect_fault("is met by 40 of 64 threads; thread 40 has finished", one_block(diverge<Fault::divergent>));
  expect_fault("while others of its block wait in the one at", one_block(diverge<Fault::other>));
  expect_fault("sync_warp() at emulator_test.cpp", one_block(diverge<Fault::missing>));
}

template <Fault fault>
__global__ void sum_lanes(float* y) {
  float x = static_cast<float>(lane_index());
  if (fault == Fault::divergent && lane_index() == 31) return;
  if (fault == Fault::other && lane_index() < 16)
    x = shuffle_down(x, 1);
  else if (fault == Fault::missing && lane_index() >= 16)
    sync_warp();
  else
    x = shuffle_xor(x, 1);
  y[thread_index()] = x;
}

TEST(Emulator, ReportsADivergentShuffle) {
  expect_right(one_block(sum_lanes<Fault::none>));
  expect_fault("is met by 31 of 32 threads; thread", one_block(sum_lanes<Fault::divergent>));
  expect_fault("while others of its warp wait in", one_block(sum_lanes<Fault::other>));
  expect_fault("while others of its warp wait in", one_block(sum_lanes<Fault::missing>));
}

template <int shift>
__global__ void shifted(float* y) {
  SharedArena arena;
  const Shared<float> before = arena.array<float>(64);
  const Shared<float> row = arena.array<float>(64);
  before[thread_index()] = 0;
  row[thread_index() + shift] = 1;
  y[thread_index()] = 1;
}
__global__ void shifted_view(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(64) + 32;
  row[thread_index()] = 1;
  y[thread_index()] = 1;
}

TEST(Emulator, ReportsAnIndexOutsideASharedArray) {
  expect_right(one_block(shifted<0>));
  expect_fault("writes element 64 of shared array 1, which has 64", one_block(shifted<1>));
  expect_fault("writes element -1 of shared array 1, which has 64", one_block(shifted<-1>));
  expect_fault("of shared array 0, which has 64", one_block(shifted_view));
}

template <Fault fault>
__global__ void two_arrays(float* y) {
  SharedArena arena;
  if (fault == Fault::divergent && thread_index() % 2 == 1) {
    arena.array<double>(4);
    return;
  }
  const Shared<float> row = arena.array<float>(64);
  if (fault == Fault::other) SharedArena second;
  const Shared<double> doubles = arena.array<double>(64);
  row[thread_index()] = 1;
  doubles[thread_index()] = 2;
  y[thread_index()] = 1;
}

TEST(Emulator, ReportsWrongUseOfTheArena) {
  constexpr std::size_t bytes = shared_size<float>(64) + shared_size<double>(64);
  expect_right(one_block(two_arrays<Fault::none>, bytes));
  expect_fault("asks for 64 elements of 8 bytes as shared array 1",
               one_block(two_arrays<Fault::none>, bytes - 1));
  expect_fault("another thread for", one_block(two_arrays<Fault::divergent>, bytes));
  expect_fault("makes a second SharedArena", one_block(two_arrays<Fault::other>, bytes));
}

template <Fault fault>
__global__ void read_all(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(65);
  row[thread_index()] = 1;
  sync_threads();
  if (thread_index() != 17) return;
  float sum = 0;
  for (int i = 0; i < (fault == Fault::none ? 64 : 65); ++i) {
    const float x = row[i];
    sum += x;
  }
  y[0] = sum;
}

TEST(Emulator, ReportsAReadOfUnwrittenSharedMemory) {
  expect_right(one_block(read_all<Fault::none>));
  expect_fault("block 0, thread 17: reads element 64 of shared array 0, which no thread has written",
               one_block(read_all<Fault::missing>));
}

// What a block wrote is not written for the next.
__global__ void first_block_writes(float* y) {
  SharedArena arena;
  const Shared<float> row = arena.array<float>(64);
  if (block_index() % 2 == 0) row[thread_index()] = 1;
  const float x = row[thread_index()];
  y[thread_index()] = x;
}

TEST(Emulator, ForgetsSharedMemoryBetweenBlocks) {
  expect_fault("which no thread has written", [](EmulatedCudaDevice& device) {
    launch(device.stream(), first_block_writes, Grid{8, 64, 256}, floats(device, 64).data<float>());
  });
}

__global__ void write_at(float* y, std::int64_t i) {
  if (thread_index() == 0) y[i] = 1;
}

TEST(Emulator, ReportsAnIndexOutsideGlobalMemory) {
  const auto writing = [](std::int64_t i) {
    return [i](EmulatedCudaDevice& device) {
      const Tensor y = floats(device, 64);
      launch(device.stream(), write_at, Grid{1, 32}, y.data<float>(), i);
    };
  };
  expect_right(writing(63));
  for (const std::int64_t i : {-1, 64, 200}) {
#ifdef __SANITIZE_ADDRESS__
    EXPECT_DEATH(emulation::fault_of(0, writing(i)), "AddressSanitizer");
#else
    expect_fault("wrote before or beyond an allocation of 256 bytes", writing(i));
#endif
  }
}

#ifdef __SANITIZE_ADDRESS__
__global__ void read_at(const float* x, float* y, std::int64_t i) {
  if (thread_index() == 0) y[0] = x[i];
}

// A read leaves no mark in a guard zone: only the sanitizer sees it.
TEST(Emulator, ReportsAReadOutsideGlobalMemory) {
  const auto reading = [](std::int64_t i) {
    return [i](EmulatedCudaDevice& device) {
      const Tensor x = floats(device, 64);
      const Tensor y = floats(device, 1);
      launch(device.stream(), read_at, Grid{1, 32}, x.data<float>(), y.data<float>(), i);
    };
  };
  expect_right(reading(63));
  for (const std::int64_t i : {-1, 64, 200})
    EXPECT_DEATH(emulation::fault_of(0, reading(i)), "AddressSanitizer.*\n.*READ of size 4");
}
#endif

TEST(Emulator, ReportsWrongGrids) {
  const auto on = [](Grid grid) {
    return [grid](EmulatedCudaDevice& device) {
      launch(device.stream(), write_at, grid, floats(device, 64).data<float>(), 0);
    };
  };
  expect_right(on({1, 1024, std::size_t{227} * 1024}));
  expect_fault("blocks of 48 threads", on({1, 48}));
  expect_fault("blocks of 1056 threads", on({1, 1056}));
  expect_fault("bytes of shared memory", on({1, 32, 227 * 1024 + 1}));
  expect_fault("a grid of", on({std::int64_t{1} << 31, 32}));
  expect_right(on({0, 32}));
}

__global__ void reductions(float* y) {
  SharedArena arena;
  const Shared<float> scratch = arena.array<float>(32);
  const Shared<float> scratch_of_max = arena.array<float>(32);
  const float x = static_cast<float>(thread_index());
  const float sum = block_sum(x, scratch);
  const float top = block_max(-x, scratch_of_max);
  const float third = shuffle(x, 3);
  if (thread_index() % 13 == 5) y[thread_index()] = sum + top + third;
}

TEST(Emulator, RunsTheReductionsOfTheKernelHeader) {
  for (std::uint64_t seed = 0; seed < emulation::orders; ++seed) {
    EmulatedCudaDevice device({}, seed);
    const Tensor y = floats(device, 1024);
    launch(device.stream(), reductions, Grid{1, 1024, 2 * shared_size<float>(32)}, y.data<float>());
    EXPECT_EQ(on_host(y)[5 + 13 * 50], 1023 * 512 + 3 + (5 + 13 * 50) / 32 * 32);
  }
}

// After a kernel that fails in the middle of a barrier, the next one runs.
TEST(Emulator, GoesOnAfterAFault) {
  EmulatedCudaDevice device({}, 1);
  const Tensor y = floats(device, 64);
  for (int round = 0; round < 3; ++round) {
    EXPECT_THROW(launch(device.stream(), diverge<Fault::divergent>, Grid{1, 64}, y.data<float>()), Error);
    launch(device.stream(), reverse<Fault::none>, Grid{1, 64, 256}, y.data<float>());
    EXPECT_EQ(on_host(y)[5], 58);
  }
}

__global__ void fill(float* y, std::int64_t n) {
  for (std::int64_t i = grid_index(); i < n; i += grid_stride()) y[i] = 1;
}
__global__ void fill_with_small_indices(float* y, std::int64_t n) {
  const int i = static_cast<int>(grid_index());
  if (i >= 0 && i < n) y[i] = 1;
}

// First, middle and last blocks over 2^31 + 77 elements, of which few exist.
TEST(Emulator, RunsChosenBlocksOverASparseMapping) {
  const std::int64_t n = (std::int64_t{1} << 31) + 77;
  EmulatedCudaDevice device({}, 1);
  const Tensor y = Tensor::empty({n}, DType::f32, device);
  const Grid grid = blocks_for(n);
  const auto at = [&](std::int64_t i) { return on_host(y.narrow(0, i, 1))[0]; };
  {
    const emulation::OnlyBlocks few(emulation::first_middle_last);
    launch(device.stream(), fill_with_small_indices, grid, y.data<float>(), n);
    EXPECT_EQ(at(n - 1), 0) << "32-bit indices do not reach it";
    launch(device.stream(), fill, grid, y.data<float>(), n);
  }
  for (const std::int64_t i : {std::int64_t{0}, grid.blocks / 2 * 256, n - 1}) EXPECT_EQ(at(i), 1) << i;
  EXPECT_EQ(at(256), 0);
}

}  // namespace
}  // namespace tessera::cuda
