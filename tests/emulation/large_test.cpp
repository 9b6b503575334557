// Indices are 64-bit: every family of kernels over more than 2^31 elements, of which few exist.
//
// Large tensors are sparse mappings of zeros. Some of their rows are given numbers, and the blocks that work
// on those run: the first, the middle and the last of each grid. The same rows side by side in small tensors,
// where every block runs, must give the same bits.

#include <algorithm>
#include <functional>
#include <random>

#include "core/ops/attention.h"
#include "core/ops/dispatch.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/router.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"
#include "core/optim/adamw.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"
#include "tests/emulation/kernels_test.h"
#include "tests/seed.h"

namespace tessera::cuda {
namespace {

using emulation::EmulatedCudaDevice;

constexpr std::int64_t beyond = std::int64_t{1} << 31;

// The pieces of a large tensor that exist: `length` of its first dimension from each of `at` on. They lie one
// after another in the small one.
struct Places {
  std::vector<std::int64_t> at;
  std::int64_t length = 1;
};
// Of `rows` rows, of which a block has some: those of the first, the middle and the last.
Places places(std::int64_t rows, std::int64_t of_block = 1) {
  const std::int64_t blocks = (rows + of_block - 1) / of_block;
  return {{0, blocks / 2 * of_block, rows - 1}, 1};
}

// Few wide rows, more than 2^31 elements, and columns that are of the first, middle and last blocks whether a
// block has 8 of them, 32, 1024 or 2048.
constexpr std::int64_t wide_rows = 64;
constexpr std::int64_t wide_n = (std::int64_t{33} << 20) + 1024;
constexpr std::int64_t wide_columns[] = {0, wide_n / 2, wide_n - 1};

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
    const Pair pair = zeros(shape, DType::i32, at);
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

  void expect_same(const Pair& pair) {
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
Places of_vectors(std::int64_t n, std::int64_t vector) {
  const std::int64_t of_block = 256 * vector;
  const std::int64_t blocks = (n + of_block - 1) / of_block;
  return {{0, blocks / 2 * of_block, n - 9, n - 1}, 1};
}

TEST_F(Large, Elementwise) {
  const std::int64_t n = beyond + 77;
  const Places wide = of_vectors(n, 8);
  const Pair a = numbers({n}, DType::bf16, wide);
  const Pair b = numbers({n}, DType::bf16, wide);
  const Pair sum = zeros({n}, DType::bf16, wide);
  both([&](auto of) { add_kernel()({of(a), of(b), of(sum)}, device_); });
  expect_same(sum);
  const Places places = of_vectors(n, 4);
  const Pair x = numbers({n}, DType::f32, places);
  const Pair narrow = zeros({n}, DType::bf16, places);
  both([&](auto of) { convert_kernel()({of(x), of(narrow)}, device_); });
  expect_same(narrow);
  const Pair factor = shared({1}, DType::f32);
  both([&](auto of) { scale_kernel()({of(x), of(factor)}, device_); });
  expect_same(x);
}

TEST_F(Large, AdamW) {
  const std::int64_t n = beyond + 77;
  const Places places = of_vectors(n, 4);
  const Pair p = numbers({n}, DType::f32, places);
  const Pair g = numbers({n}, DType::f32, places);
  const Pair m = zeros({n}, DType::f32, places);
  const Pair v = zeros({n}, DType::f32, places);
  const std::vector<float> values{0.1F, 1, 0.1F, 0.3F};
  const Tensor scalars = Tensor::from_host(values.data(), {4}, DType::f32, device_);
  both([&](auto of) {
    adamw_kernel()({of(p), of(g), of(m), of(v), scalars, 0.9F, 0.95F, 1e-8F, 0.1F}, device_);
  });
  for (const Pair* changed : {&p, &m, &v}) expect_same(*changed);
}

TEST_F(Large, Reductions) {
  const std::int64_t n = beyond + 77;
  const Places wide = of_vectors(n, 8);
  const Pair a = numbers({n}, DType::bf16, wide);
  const Pair b = numbers({n}, DType::bf16, wide);
  const Pair c = numbers({n}, DType::bf16, wide);
  const Pair sum = zeros({n}, DType::bf16, wide);
  both([&](auto of) { tree_sum_kernel()({{of(a), of(b), of(c)}, of(sum)}, device_); });
  expect_same(sum);
  both([&](auto of) { tree_sum_kernel()({{of(a), of(b)}, of(sum)}, device_); });
  expect_same(sum);

  const std::int64_t block = 2048;
  const std::int64_t rows = beyond / block + 3;
  const Pair x = numbers({rows, block}, DType::f32, places(rows));
  const Pair squares = zeros({rows}, DType::f64, places(rows));
  both([&](auto of) { square_sums_kernel()({of(x), block, of(squares)}, device_); });
  expect_same(squares);
}

TEST_F(Large, Movement) {
  const std::int64_t n = 4096;
  const std::int64_t rows = beyond / n + 3;
  const Pair wide = numbers({rows, n + 64}, DType::bf16, places(rows));
  const Pair dense = zeros({rows, n}, DType::bf16, places(rows));
  for (const bool accumulate : {false, true}) {
    both([&](auto of) {
      strided_copy_kernel()({of(wide).narrow(1, 32, n), of(dense), accumulate}, device_);
    });
    expect_same(dense);
  }
  const Pair joined = zeros({rows, 2 * n}, DType::bf16, places(rows));
  both([&](auto of) { concatenate_kernel()({{of(dense), of(dense)}, {n, n}, of(joined)}, device_); });
  expect_same(joined);
}

TEST_F(Large, RmsNorm) {
  const std::int64_t n = 512;
  const std::int64_t rows = beyond / n + 5;
  const Places at = places(rows, 8);
  const auto as_rows = [](const Tensor& x) { return x.split_first(1, x.size(0)); };
  const Pair x = numbers({rows, n}, DType::f32, at);
  const Pair y = zeros({rows, n}, DType::f32, at);
  const Pair inverse = zeros({rows}, DType::f32, at);
  const Pair weight = shared({n}, DType::f32);
  both([&](auto of) {
    rms_norm_forward_kernel()({as_rows(of(x)), of(weight), as_rows(of(y)), of(inverse), 1e-6F}, device_);
  });
  expect_same(y);
  expect_same(inverse);
  const Pair dy = numbers({rows, n}, DType::f32, at);
  const Pair dx = zeros({rows, n}, DType::f32, at);
  const Tensor dweight = Tensor::empty({n}, DType::f32, device_);
  both([&](auto of) {
    rms_norm_backward_kernel()(
        {as_rows(of(x)), of(weight), of(inverse), as_rows(of(dy)), as_rows(of(dx)), dweight}, device_);
  });
  expect_same(dx);
}

// Wide rows, so that the blocks that run have all that their columns of the weight's gradient need.
TEST_F(Large, RmsNormWeightGradient) {
  const Tensor x = Tensor::empty({1, wide_rows, wide_n}, DType::bf16, device_);
  const Tensor dy = Tensor::empty(x.shape(), DType::bf16, device_);
  const Tensor dx = Tensor::empty(x.shape(), DType::bf16, device_);
  const Tensor weight = Tensor::empty({wide_n}, DType::bf16, device_);
  const Tensor inverse = Tensor::empty({wide_rows}, DType::f32, device_);
  const Tensor dweight = Tensor::empty({wide_n}, DType::f32, device_);
  for (const std::int64_t column : wide_columns) {
    put(x, (wide_rows - 1) * wide_n + column, bf16(0.5F));
    put(dy, (wide_rows - 1) * wide_n + column, bf16(2.0F));
  }
  put(inverse, wide_rows - 1, 3.0F);
  const emulation::OnlyBlocks few(emulation::first_middle_last);
  rms_norm_backward_kernel()({x, weight, inverse, dy, dx, dweight}, device_);
  for (const std::int64_t column : wide_columns) EXPECT_EQ(get<float>(dweight, column), 3) << column;
}

TEST_F(Large, Rope) {
  const std::int64_t heads = 8, dh = 128;
  const std::int64_t tokens = beyond / heads / dh + 3;
  const Places at = places(tokens, 4);
  const Pair x = numbers({tokens, heads, dh}, DType::bf16, at);
  const Pair y = zeros({tokens, heads, dh}, DType::bf16, at);
  const Pair positions = ids({tokens}, at, {0, 5, 9}, {0, 5, 9});
  const Pair table = shared({10, dh}, DType::f32);
  both([&](auto of) { rope_kernel()({of(x), of(table), of(positions), of(y), false}, device_); });
  expect_same(y);
}

TEST_F(Large, Swiglu) {
  const std::int64_t n = 2048;
  const std::int64_t rows = beyond / n + 3;
  const Pair x = numbers({rows, 2 * n}, DType::bf16, places(rows));
  const Pair y = zeros({rows, n}, DType::bf16, places(rows));
  both([&](auto of) { swiglu_forward_kernel()({of(x), of(y)}, device_); });
  expect_same(y);
  const Pair dy = numbers({rows, n}, DType::bf16, places(rows));
  const Pair dx = zeros({rows, 2 * n}, DType::bf16, places(rows));
  both([&](auto of) { swiglu_backward_kernel()({of(x), of(dy), of(dx)}, device_); });
  expect_same(dx);
}

TEST_F(Large, CrossEntropy) {
  const std::int64_t vocab = 32768;
  const std::int64_t rows = beyond / vocab + 3;
  const Places at = places(rows);
  const Pair logits = numbers({rows, vocab}, DType::f32, at);
  const Pair targets = ids({rows}, at, {0, 100, 32767}, {0, 100, 32767});
  const Pair lse = zeros({rows}, DType::f32, at);
  const Pair loss = zeros({rows}, DType::f32, at);
  both([&](auto of) {
    cross_entropy_forward_kernel()({of(logits), of(targets), of(lse), of(loss)}, device_);
  });
  expect_same(lse);
  expect_same(loss);
  const Pair factor = shared({1}, DType::f32);
  const double one = 1;
  const Tensor upstream = Tensor::from_host(&one, {1}, DType::f64, device_);
  const Pair dlogits = zeros({rows, vocab}, DType::bf16, at);
  both([&](auto of) {
    cross_entropy_backward_kernel()({of(logits), of(targets), of(lse), of(factor), upstream, of(dlogits)},
                                    device_);
  });
  expect_same(dlogits);
}

TEST_F(Large, Embedding) {
  const std::int64_t hidden = 2048;
  const std::int64_t vocab = beyond / hidden + 9;
  const std::int64_t tokens = beyond / hidden + 3;
  const Places of_ids{{5, vocab / 2, vocab - 1}, 1};
  const Places at = places(tokens);
  const auto last = static_cast<std::int32_t>(vocab - 1);
  const Pair weight = numbers({vocab, hidden}, DType::bf16, of_ids);
  const Pair out = zeros({tokens, hidden}, DType::bf16, at);
  const Pair known = ids({tokens}, at, {5, static_cast<std::int32_t>(vocab / 2), last}, {0, 1, 2});
  both([&](auto of) { embedding_forward_kernel()({of(known), of(weight), of(out)}, device_); });
  expect_same(out);
  const Pair dout = numbers({tokens, hidden}, DType::bf16, at);
  const Pair dweight = zeros({vocab, hidden}, DType::f32, of_ids);
  both([&](auto of) { embedding_backward_kernel()({of(known), of(dout), of(dweight), false}, device_); });
  expect_same(dweight);
}

TEST_F(Large, Dispatch) {
  const std::int64_t n = 2048;
  const std::int64_t rows = beyond / n + 4;
  const Places at = places(rows);
  const auto last = static_cast<std::int32_t>(rows - 1);
  const std::vector<std::int32_t> backwards{last, static_cast<std::int32_t>(rows / 2), 0};
  const Pair in = numbers({rows, n}, DType::bf16, at);
  const Pair index = ids({rows}, at, backwards, {2, 1, 0});
  const Pair scale = numbers({rows}, DType::f32, at);
  const Pair out = zeros({rows, n}, DType::bf16, at);
  both([&](auto of) { gather_rows_kernel()({of(in), of(index), of(out), of(scale), 1}, device_); });
  expect_same(out);
  both([&](auto of) { combine_rows_kernel()({of(in), of(index), of(scale), of(out)}, device_); });
  expect_same(out);
  const Pair dots = zeros({rows}, DType::f32, at);
  both([&](auto of) { row_dots_kernel()({of(in), of(index), of(out), of(dots)}, device_); });
  expect_same(dots);
}

TEST_F(Large, Router) {
  const std::int64_t experts = 256, k = 4;
  const std::int64_t tokens = beyond / experts + 11;
  const Places at = places(tokens, 8);
  const Pair logits = numbers({tokens, experts}, DType::f32, at);
  const Pair probs = zeros({tokens, experts}, DType::f32, at);
  const Pair indices = zeros({tokens, k}, DType::i32, at);
  const Pair gates = zeros({tokens, k}, DType::f32, at);
  both([&](auto of) {
    route_forward_kernel()({of(logits), {}, of(probs), of(indices), of(gates), true, true}, device_);
  });
  expect_same(probs);
  expect_same(gates);
  const Pair dgates = numbers({tokens, k}, DType::f32, at);
  const Pair dlogits = zeros({tokens, experts}, DType::f32, at);
  both([&](auto of) {
    route_backward_kernel()({of(probs), of(indices), of(dgates), {}, {}, of(dlogits), true}, device_);
  });
  expect_same(dlogits);
}

TEST_F(Large, RouterBalance) {
  const std::int64_t experts = 128, length = 2048, k = 2;
  const std::int64_t rows = beyond / length / k + 1;  // of counts
  const std::int64_t tokens = rows * length;
  const Tensor indices = Tensor::empty({tokens, k}, DType::i32, device_);
  const Tensor counts = Tensor::empty({rows, experts}, DType::f32, device_);
  const Tensor probs = Tensor::empty({tokens / 64, experts}, DType::f32, device_);
  const Tensor total = Tensor::empty({1}, DType::f64, device_);
  put(indices, tokens * k - 1, std::int32_t{127});
  const emulation::OnlyBlocks few(emulation::first_middle_last);
  count_choices_kernel()({indices, {0, length}, counts}, device_);
  EXPECT_EQ(get<float>(counts, 0), 4096);
  EXPECT_EQ(get<float>(counts, rows * experts - 1), 1) << "the last block's";
  // Balance has a row for as many tokens.
  const Tensor balance = Tensor::empty({(tokens / 64 + length - 1) / length, experts}, DType::f32, device_);
  const std::int64_t last = probs.numel() - 1;
  ASSERT_GT(last, beyond);
  put(probs, std::int64_t{5}, 0.5F);
  put(balance, std::int64_t{5}, 4.0F);
  put(probs, last, 0.25F);
  put(balance, balance.numel() - 1, 2.0F);
  balance_sum_kernel()({probs, balance, {0, length}, total}, device_);
  EXPECT_EQ(get<double>(total, 0), 2.5);
}

// a alone is large, then c.
TEST_F(Large, Matmul) {
  const auto multiply = [&](std::int64_t m, std::int64_t n, std::int64_t k, bool rows_of_b) {
    const Places down = places(m, 64);
    const Pair a = numbers({m, k}, DType::bf16, down);
    const Pair b = shared(rows_of_b ? Shape{n, k} : Shape{k, n}, DType::bf16);
    const Pair c = zeros({m, n}, DType::f32, down);
    both([&](auto of) { matmul_kernel()({of(a), of(b), of(c), false, rows_of_b, false}, device_); });
    return c;
  };
  expect_same(multiply(beyond / 1024 + 3, 8, 1031, true));
  // A block has 64 of the columns: of the first, the middle and the last tile.
  const std::int64_t m = 32769, n = 65600;
  const Pair c = multiply(m, n, 3, false);
  const std::int64_t across = (n + 63) / 64;
  const std::int64_t middle = (m + 63) / 64 * across / 2;
  const std::int64_t rows[] = {0, middle / across * 64, m - 1};
  const std::int64_t columns[] = {0, middle % across * 64, n - 1};
  for (std::int64_t i = 0; i < 3; ++i) {
    const float want = get<float>(c.small, i * n + columns[i]);
    EXPECT_NE(want, 0);
    EXPECT_EQ(get<float>(c.large, rows[i] * n + columns[i]), want) << rows[i] << ", " << columns[i];
  }
}

TEST_F(Large, Bias) {
  const std::int64_t n = 2048;
  const std::int64_t rows = beyond / n + 3;
  const Pair x = numbers({rows, n}, DType::bf16, places(rows));
  const Pair bias = shared({n}, DType::bf16);
  both([&](auto of) { add_bias_kernel()({of(x), of(bias)}, device_); });
  expect_same(x);
}

TEST_F(Large, SumsOfRows) {
  const Tensor x = Tensor::empty({wide_rows, wide_n}, DType::bf16, device_);
  const Tensor out = Tensor::empty({wide_n}, DType::f32, device_);
  for (const std::int64_t column : wide_columns) put(x, (wide_rows - 1) * wide_n + column, bf16(0.5F));
  const emulation::OnlyBlocks few(emulation::first_middle_last);
  sum_rows_kernel()({x, out}, device_);
  for (const std::int64_t column : wide_columns) EXPECT_EQ(get<float>(out, column), 0.5F) << column;
}

// Two groups, both with a row more than whole tiles have: so the grid's last block has work, and the middle
// one the second group's first.
TEST_F(Large, GroupedRows) {
  const std::int64_t k = 2048, n = 8;
  const std::int64_t half = beyond / k + 1;
  const Places at{{0, half, 2 * half - 1}, 1};
  const Pair a = numbers({2 * half, k}, DType::bf16, at);
  const Pair b = shared({2 * n, k}, DType::bf16);
  const Pair c = zeros({2 * half, n}, DType::bf16, at);
  const auto first = static_cast<std::int32_t>(half);
  const Pair offsets = ids({3}, {{0, 1, 2}, 1}, {0, first, 2 * first}, {0, 1, 3});
  both([&](auto of) {
    grouped_matmul_kernel()({GroupedProduct::output, of(a), of(b), of(c), of(offsets), false}, device_);
  });
  expect_same(c);
}

// Three groups of a row, whose matrices are large together.
TEST_F(Large, GroupedWeights) {
  const std::int64_t n = 32768;
  const Tensor a = shared({3, n}, DType::bf16).large;
  const Tensor b = shared({3, n}, DType::bf16).large;
  const Tensor c = Tensor::empty({3 * n, n}, DType::f32, device_);
  const std::vector<std::int32_t> ends{0, 1, 2, 3};
  const Tensor offsets = Tensor::from_host(ends.data(), {4}, DType::i32, device_);
  const emulation::OnlyBlocks few(emulation::first_middle_last);
  grouped_matmul_kernel()({GroupedProduct::weight_gradient, a, b, c, offsets, false}, device_);
  const std::int64_t rows[] = {0, n / 2, n - 1};
  const std::int64_t columns[] = {0, 0, n - 1};
  for (std::int64_t g = 0; g < 3; ++g) {
    const float want = static_cast<float>(get<bf16>(a, g * n + rows[g])) *
                       static_cast<float>(get<bf16>(b, g * n + columns[g]));
    EXPECT_EQ(get<float>(c, (g * n + rows[g]) * n + columns[g]), want) << "group " << g;
  }
}

TEST_F(Large, Attention) {
  const std::int64_t length = 4, dh = 128;
  const std::int64_t batch = beyond / length / dh + 1;
  const Places at = places(batch);
  const Shape shape{batch, length, 1, dh};
  const auto input = [&] { return numbers(shape, DType::bf16, at); };
  const auto output = [&] { return zeros(shape, DType::bf16, at); };
  const Pair q = input(), k = input(), v = input(), dout = input();
  const Pair out = output(), dq = output(), dk = output(), dv = output();
  const Pair lse = zeros({batch, 1, length}, DType::f32, at);
  both([&](auto of) {
    const AttentionInputs in{of(q), of(k), of(v), {}, 0.1F, 0};
    attention_forward_kernel()({in, of(out), of(lse)}, device_);
    attention_backward_kernel()({in, of(out), of(lse), of(dout), of(dq), of(dk), of(dv)}, device_);
  });
  expect_same(lse);
  for (const Pair* result : {&out, &dq, &dk, &dv}) expect_same(*result);
}

}  // namespace
}  // namespace tessera::cuda
