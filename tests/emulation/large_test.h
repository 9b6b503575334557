// Indices are 64-bit: every family of kernels over more than 2^31 elements, of which few exist.
//
// Large tensors are sparse mappings of zeros. Some of their rows are given numbers, and the blocks that work
// on those run: the first, the middle and the last of each grid. The same rows side by side in small tensors,
// where every block runs, must give the same bits.
#pragma once

#include <algorithm>
#include <functional>
#include <random>

#include "tests/emulation/kernels_test.h"
#include "tests/seed.h"

namespace tessera::cuda {

using emulation::EmulatedCudaDevice;

inline constexpr std::int64_t beyond = std::int64_t{1} << 31;

// The pieces of a large tensor that exist: `length` of its first dimension from each of `at` on. They lie one
// after another in the small one.
struct Places {
  std::vector<std::int64_t> at;
  std::int64_t length = 1;
};
// Of `rows` rows, of which a block has some: those of the first, the middle and the last.
inline Places places(std::int64_t rows, std::int64_t of_block = 1) {
  const std::int64_t blocks = (rows + of_block - 1) / of_block;
  return {{0, blocks / 2 * of_block, rows - 1}, 1};
}

// Few wide rows, more than 2^31 elements, and columns that are of the first, middle and last blocks whether a
// block has 8 of them, 32, 1024 or 2048.
inline constexpr std::int64_t wide_rows = 64;
inline constexpr std::int64_t wide_n = (std::int64_t{33} << 20) + 1024;
inline constexpr std::int64_t wide_columns[] = {0, wide_n / 2, wide_n - 1};

struct Pair {
  Tensor large, small;
  Places places;
};

class Large : public testing::Test {
 protected:
  Large() { device_.sparse = true; }

  Pair zeros(const Shape& shape, DType dtype, const Places& at) {
    Shape few = shape;
    few[0] = static_cast<std::int64_t>(at.at.size()) * at.length;
    Pair pair{Tensor::empty(shape, dtype, device_), Tensor::empty(few, dtype, device_), at};
    return pair;
  }
  Pair numbers(const Shape& shape, DType dtype, const Places& at) {
    Pair pair = zeros(shape, dtype, at);
    fill(pair.small);
    each_piece(pair, [&](Tensor large, const Tensor& small) { large.copy_from(small); });
    return pair;
  }
  // Small tensors that both runs read.
  Pair shared(const Shape& shape, DType dtype) {
    const Tensor one = Tensor::empty(shape, dtype, device_);
    fill(one);
    return {one, one, {}};
  }
  // i32, of the small tensor's elements in `small`, of the large one's at its places in `large`.
  Pair ids(const Shape& shape, const Places& at, const std::vector<std::int32_t>& large,
           const std::vector<std::int32_t>& small) {
    Pair pair = zeros(shape, DType::i32, at);
    device_.copy(pair.small.raw(), small.data(), pair.small.bytes());
    std::size_t piece = 0;
    each_piece(pair, [&](const Tensor& to, const Tensor&) {
      device_.copy(to.raw(), large.data() + piece, to.bytes());
      piece += static_cast<std::size_t>(to.numel());
    });
    return pair;
  }

  // f(of), where of(pair) is the pair's large tensor, then its small one.
  template <class F>
  void both(F f) {
    {
      const emulation::OnlyBlocks few(emulation::first_middle_last);
      f([](const Pair& pair) { return pair.large; });
    }
    f([](const Pair& pair) { return pair.small; });
  }

  template <class T>
  void put(const Tensor& x, std::int64_t i, T value) {
    device_.copy(x.data<T>() + i, &value, sizeof(T));
  }
  template <class T>
  T get(const Tensor& x, std::int64_t i) {
    T value;
    device_.copy(&value, x.data<T>() + i, sizeof(T));
    return value;
  }

  static void expect_same(const Pair& pair) {
    EXPECT_GE(count_nonzero(pair.small), static_cast<std::size_t>(pair.small.numel() / 4));
    each_piece(pair, [&](const Tensor& large, const Tensor& small) {
      EXPECT_EQ(bytes(large), bytes(small)) << "of " << pair.large.shape().text();
    });
  }

  EmulatedCudaDevice device_{{}, 1};

 private:
  void fill(const Tensor& x) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(x.numel()));
    for (float& value : values) value = normal(random_);
    if (x.dtype() == DType::f32) return device_.copy(x.raw(), values.data(), x.bytes());
    std::vector<bf16> narrow;
    for (const float value : values) narrow.emplace_back(value);
    device_.copy(x.raw(), narrow.data(), x.bytes());
  }
  static void each_piece(const Pair& pair, const std::function<void(Tensor, Tensor)>& visit) {
    const std::int64_t length = pair.places.length;
    for (std::size_t i = 0; i < pair.places.at.size(); ++i)
      visit(pair.large.narrow(0, pair.places.at[i], length),
            pair.small.narrow(0, static_cast<std::int64_t>(i) * length, length));
  }
  static std::vector<std::uint8_t> bytes(const Tensor& x) {
    std::vector<std::uint8_t> host(x.bytes());
    x.to_host(host.data());
    return host;
  }
  static std::size_t count_nonzero(const Tensor& x) {
    const std::vector<std::uint8_t> host = bytes(x);
    return static_cast<std::size_t>(
        std::count_if(host.begin(), host.end(), [](std::uint8_t byte) { return byte != 0; }));
  }
  std::mt19937_64 random_{test_seed()};
};

// Blocks of 256 threads with 16 bytes each; n − 9 is of the last block. The last element is left over from
// the vectors: block 0 has it.
inline Places of_vectors(std::int64_t n, std::int64_t vector) {
  const std::int64_t of_block = 256 * vector;
  const std::int64_t blocks = (n + of_block - 1) / of_block;
  return {{0, blocks / 2 * of_block, n - 9, n - 1}, 1};
}

}  // namespace tessera::cuda
