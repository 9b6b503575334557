#include <algorithm>
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/linear_cross_entropy.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

using Tensors = std::vector<Tensor>;
using Inputs = std::span<const Tensor>;
using Weights = std::span<Parameter* const>;
using Values = std::span<const Array>;

OpCase embedding_case() {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 3 * 29; ++i) tokens.push_back(i * i % 19);  // repeats some, leaves some out
  return {.name = "embedding",
          .inputs = {},
          .parameters = {{"weight", {23, 11}}},
          .op =
              [tokens](Inputs, Weights w) {
                return Tensors{
                    embedding(Tensor::from_host(tokens.data(), {3, 29}, DType::i32, w[0]->device()), *w[0])};
              },
          .reference =
              [tokens](Values v) {
                Array out;
                for (const std::int32_t token : tokens)
                  for (std::size_t i = 0; i < 11; ++i)
                    out.push_back(v[0][static_cast<std::size_t>(token) * 11 + i]);
                return Arrays{out};
              },
          .terms = 87,
          .roundings = 1};
}

OpCase cross_entropy_case(const std::string& name, std::int64_t n, std::int64_t hidden, std::int64_t vocab,
                          int samples) {
  std::vector<std::int32_t> targets;
  for (std::int64_t i = 0; i < n; ++i)
    targets.push_back(i % 5 == 3 ? -1 : static_cast<std::int32_t>((i * 7 + 2) % vocab));
  const float inverse = 1.0F / 37;
  return {.name = name,
          .inputs = {{"x", {n, hidden}}},
          .parameters = {{.name = "weight", .shape = {vocab, hidden}, .scale = 0.7}},
          .op =
              [=](Inputs x, Weights w) {
                Device& device = x[0].device();
                return Tensors{linear_cross_entropy(
                    x[0], *w[0], Tensor::from_host(targets.data(), {n}, DType::i32, device),
                    Tensor::from_host(&inverse, {1}, DType::f32, device))};
              },
          .reference =
              [=](Values v) {
                const auto h = static_cast<std::size_t>(hidden);
                const auto classes = static_cast<std::size_t>(vocab);
                double loss = 0;
                Array logits(classes);
                for (std::size_t i = 0; i < targets.size(); ++i) {
                  if (targets[i] < 0) continue;
                  for (std::size_t c = 0; c < classes; ++c) {
                    logits[c] = 0;
                    for (std::size_t j = 0; j < h; ++j) logits[c] += v[0][i * h + j] * v[1][c * h + j];
                  }
                  const double top = *std::max_element(logits.begin(), logits.end());
                  double total = 0;
                  for (const double logit : logits) total += std::exp(logit - top);
                  loss += top + std::log(total) - logits[static_cast<std::size_t>(targets[i])];
                }
                return Arrays{{loss * static_cast<double>(inverse)}};
              },
          .terms = static_cast<double>(std::max(n, vocab)),
          .roundings = 4,
          .samples = samples};
}

}  // namespace

// The last case has a vocabulary so large that its tokens go in several chunks.
std::vector<OpCase> loss_cases() {
  return {embedding_case(), cross_entropy_case("linear_cross_entropy", 45, 9, 67, 48),
          cross_entropy_case("linear_cross_entropy_chunks", 131, 5, 65537, 4)};
}

}  // namespace tessera::testing_ops
