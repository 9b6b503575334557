// More than 2^31 elements: what works on elements, rows and tokens.

#include "tests/emulation/large_test.h"
#include "core/ops/embedding.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"
#include "core/optim/adamw.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"

namespace tessera::cuda {
namespace {

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

}  // namespace
}  // namespace tessera::cuda
