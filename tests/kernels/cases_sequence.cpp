#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/attention.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

OpCase rms_norm_case(const std::string& name, Shape shape, bool strided) {
  return {.name = name,
          .inputs = {{.name = "x", .shape = shape, .strided = strided, .scale = 2}},
          .parameters = {{"weight", {shape[-1]}}},
          .op = [](Inputs x, Weights w) { return Tensors{rms_norm(x[0], *w[0], 1e-2F)}; },
          .reference =
              [n = static_cast<std::size_t>(shape[-1])](Values v) {
                Array y = v[0];
                for (std::size_t row = 0; row < y.size() / n; ++row) {
                  double squares = 0;
                  for (std::size_t i = 0; i < n; ++i) squares += std::pow(y[row * n + i], 2);
                  const double inverse =
                      1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(1e-2F));
                  for (std::size_t i = 0; i < n; ++i) y[row * n + i] *= inverse * v[1][i];
                }
                return Arrays{y};
              },
          .terms = static_cast<double>(shape.numel())};
}

// Positions in an order of their own, more of them than the sequence has.
OpCase rope_case(const std::string& name, std::int64_t width, bool strided) {
  constexpr std::int64_t length = 21;
  constexpr std::int64_t dh = 10;
  const auto half = static_cast<std::size_t>(width / 2);
  std::vector<std::int32_t> positions;
  for (std::int32_t i = 0; i < 2 * length; ++i) positions.push_back((i * 5 + 3) % 29);
  std::vector<float> table;
  for (int p = 0; p < 29; ++p)
    for (std::size_t side = 0; side < 2; ++side)
      for (std::size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(p) * std::pow(100.0F, -static_cast<float>(i) / 3);
        table.push_back(side == 0 ? std::cos(angle) : std::sin(angle));
      }
  return {.name = name,
          .inputs = {{.name = "x", .shape = {2, length, 3, dh}, .strided = strided}},
          .parameters = {},
          .op =
              [=](Inputs x, Weights) {
                Device& device = x[0].device();
                return Tensors{rope(x[0], Tensor::from_host(table.data(), {29, width}, DType::f32, device),
                                    Tensor::from_host(positions.data(), {2, length}, DType::i32, device))};
              },
          .reference =
              [=](Values v) {
                Array y = v[0];
                for (std::size_t row = 0; row < y.size() / dh; ++row) {
                  const float* cs = table.data() + static_cast<std::size_t>(positions[row / 3]) * 2 * half;
                  for (std::size_t i = 0; i < half; ++i) {
                    const double a = v[0][row * dh + i];
                    const double b = v[0][row * dh + half + i];
                    const auto c = static_cast<double>(cs[i]);
                    const auto s = static_cast<double>(cs[half + i]);
                    y[row * dh + i] = a * c - b * s;
                    y[row * dh + half + i] = b * c + a * s;
                  }
                }
                return Arrays{y};
              },
          .roundings = 1};
}

struct AttentionShape {
  std::size_t batch, length, heads, kv_heads, dh;
  std::int64_t window = 0;
  bool documents = false;
  std::size_t before = 0;  // keys before the first query's own
  std::size_t keys() const { return before + length; }
};

Array attention_reference(const AttentionShape& n, const std::vector<std::int32_t>& starts, double scale,
                          Values v) {
  Array out(n.batch * n.length * n.heads * n.dh, 0.0);
  Array scores(n.keys());
  for (std::size_t b = 0; b < n.batch; ++b)
    for (std::size_t h = 0; h < n.heads; ++h)
      for (std::size_t i = 0; i < n.length; ++i) {
        const std::size_t kv = h * n.kv_heads / n.heads;
        const double* q = &v[0][((b * n.length + i) * n.heads + h) * n.dh];
        auto first = n.documents ? static_cast<std::int64_t>(starts[b * n.length + i]) : 0;
        const std::size_t last = n.before + i;
        if (n.window > 0) first = std::max(first, static_cast<std::int64_t>(last) - n.window + 1);
        double top = -std::numeric_limits<double>::infinity();
        for (auto j = static_cast<std::size_t>(first); j <= last; ++j) {
          const double* k = &v[1][((b * n.keys() + j) * n.kv_heads + kv) * n.dh];
          scores[j] = 0;
          for (std::size_t d = 0; d < n.dh; ++d) scores[j] += scale * q[d] * k[d];
          top = std::max(top, scores[j]);
        }
        double total = 0;
        for (auto j = static_cast<std::size_t>(first); j <= last; ++j)
          total += scores[j] = std::exp(scores[j] - top);
        double* o = &out[((b * n.length + i) * n.heads + h) * n.dh];
        for (auto j = static_cast<std::size_t>(first); j <= last; ++j)
          for (std::size_t d = 0; d < n.dh; ++d)
            o[d] += scores[j] / total * v[2][((b * n.keys() + j) * n.kv_heads + kv) * n.dh + d];
      }
  return out;
}

// Documents begin at odd places, differently in each row; one is a single token.
OpCase attention_case(const std::string& name, const AttentionShape& n, int samples) {
  std::vector<std::int32_t> starts;
  for (std::size_t b = 0; b < n.batch; ++b) {
    std::int32_t start = 0;
    for (std::size_t i = 0; i < n.length; ++i) {
      if (i % (11 + 6 * b) == 7 || i == n.length - 1) start = static_cast<std::int32_t>(i);
      starts.push_back(start == 0 ? 0 : start + static_cast<std::int32_t>(n.before));
    }
  }
  const auto dim = [](std::size_t size) { return static_cast<std::int64_t>(size); };
  const Shape q{dim(n.batch), dim(n.length), dim(n.heads), dim(n.dh)};
  const Shape kv{dim(n.batch), dim(n.keys()), dim(n.kv_heads), dim(n.dh)};
  const float scale = 0.3F;
  return {.name = name,
          .inputs = {{.name = "q", .shape = q, .scale = 1.5},
                     {.name = "k", .shape = kv, .scale = 1.5},
                     {.name = "v", .shape = kv, .strided = true}},
          .parameters = {},
          .op =
              [=](Inputs x, Weights) {
                Tensor doc_start;
                if (n.documents)
                  doc_start = Tensor::from_host(starts.data(), {q[0], q[1]}, DType::i32, x[0].device());
                return Tensors{attention(x[0], x[1], x[2], doc_start, scale, n.window)};
              },
          .reference =
              [=](Values v) { return Arrays{attention_reference(n, starts, static_cast<double>(scale), v)}; },
          .terms = static_cast<double>(n.keys() * n.heads) / static_cast<double>(n.kv_heads),
          .samples = samples};
}

// A position that sees only itself: the gradients of q and k are zero and beyond finite differences.
OpCase one_token_case() {
  OpCase test = attention_case("attention_one_token", {2, 1, 2, 1, 5}, 48);
  test.inputs[0].gradient = test.inputs[1].gradient = false;
  return test;
}

}  // namespace

std::vector<OpCase> sequence_cases() {
  return {rms_norm_case("rms_norm", {2, 77, 33}, false),
          rms_norm_case("rms_norm_of_heads", {2, 13, 3, 7}, true),
          rope_case("rope", 10, false),
          rope_case("rope_partial_strided", 6, true),
          attention_case("attention", {2, 37, 4, 2, 6}, 48),
          one_token_case(),
          attention_case("attention_documents", {2, 45, 3, 3, 5, 0, true}, 32),
          attention_case("attention_window", {1, 41, 4, 1, 8, 9, true}, 32),
          attention_case("attention_last_queries", {2, 21, 4, 2, 6, 0, true, 25}, 32),
          attention_case("attention_last_queries_window", {1, 17, 2, 1, 6, 9, false, 140}, 16),
          attention_case("attention_blocks", {1, 291, 2, 1, 7}, 6),
          attention_case("attention_blocks_window", {1, 275, 2, 2, 5, 140, false}, 6),
          attention_case("attention_blocks_documents", {2, 263, 2, 1, 5, 0, true}, 6)};
}

}  // namespace tessera::testing_ops
