// More than 2^31 elements: experts, matrix products and attention.

#include "core/ops/attention.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/ops/router.h"
#include "tests/emulation/large_test.h"

namespace tessera::cuda {
namespace {

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
  const Tensor total = Tensor::zeros({1}, DType::f64, device_);
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
    Pair c = zeros({m, n}, DType::f32, down);
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
