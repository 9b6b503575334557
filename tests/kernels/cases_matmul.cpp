#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

Array product(const Array& x, const Array& w, std::size_t in, std::size_t out) {
  const std::size_t rows = x.size() / in;
  Array y(rows * out);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t o = 0; o < out; ++o) {
      double total = 0;
      for (std::size_t k = 0; k < in; ++k) total += x[i * in + k] * w[o * in + k];
      y[i * out + o] = total;
    }
  return y;
}

OpCase linear_case(const std::string& name, std::int64_t sequences, std::int64_t length, std::int64_t in,
                   std::int64_t out, bool bias, int samples) {
  OpCase test;
  test.name = name;
  test.inputs = {{"x", {sequences, length, in}}};
  test.parameters = {{"weight", {out, in}}};
  if (bias) test.parameters.push_back({"bias", {out}});
  test.op = [bias](Inputs x, Weights w) { return Tensors{linear(x[0], *w[0], bias ? w[1] : nullptr)}; };
  test.reference = [in, out, bias](Values v) {
    Array y = product(v[0], v[1], static_cast<std::size_t>(in), static_cast<std::size_t>(out));
    const auto n = static_cast<std::size_t>(out);
    for (std::size_t i = 0; bias && i < y.size(); ++i) y[i] += v[2][i % n];
    return Arrays{y};
  };
  test.terms = static_cast<double>(std::max({in, out, sequences * length}));
  test.samples = samples;
  return test;
}

OpCase add_bias_case() {
  return {.name = "add_bias",
          .inputs = {{"x", {3, 43, 17}}},
          .parameters = {{"bias", {17}}},
          .op =
              [](Inputs x, Weights w) {
                // The op works in place, and the case's input is not its to change.
                const Tensor zero = Tensor::zeros(x[0].shape(), x[0].dtype(), x[0].device());
                return Tensors{add_bias(add(x[0], zero), w[0])};
              },
          .reference =
              [](Values v) {
                Array y = v[0];
                for (std::size_t i = 0; i < y.size(); ++i) y[i] += v[1][i % 17];
                return Arrays{y};
              },
          .terms = 129};
}

OpCase logits_case() {
  return {.name = "linear_fp32_logits",
          .inputs = {{"x", {2, 9, 37}}},
          .parameters = {{"weight", {53, 37}}},
          .op = [](Inputs x, Weights w) { return Tensors{linear_fp32_logits(x[0], *w[0])}; },
          .reference = [](Values v) { return Arrays{product(v[0], v[1], 37, 53)}; },
          .terms = 37,
          .roundings = 0,
          .differentiable = false};
}

}  // namespace

std::vector<OpCase> matmul_cases() {
  return {linear_case("linear", 2, 5, 17, 13, false, 64),
          linear_case("linear_bias", 3, 43, 31, 29, true, 64),
          linear_case("linear_one_row", 1, 1, 7, 3, true, 64),
          linear_case("linear_many_tiles", 2, 263, 19, 1037, true, 6),
          linear_case("linear_deep", 1, 1031, 1033, 3, false, 12),
          add_bias_case(),
          logits_case()};
}

}  // namespace tessera::testing_ops
