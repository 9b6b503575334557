#include <algorithm>
#include <cmath>

#include "core/autograd/tape.h"
#include "core/ops/embedding.h"
#include "core/ops/linear_cross_entropy.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

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

// Ids from 5 on, of which the weight has 13: others give zeros, and no gradient.
OpCase embedding_shard_case() {
  OpCase test = embedding_case();
  const std::vector<std::int32_t> tokens{3, 5, 17, 18, 9, 9, 4, 12};
  test.name = "embedding_shard";
  test.parameters = {{"weight", {13, 7}}};
  test.op = [tokens](Inputs, Weights w) {
    return Tensors{embedding(Tensor::from_host(tokens.data(), {2, 4}, DType::i32, w[0]->device()), *w[0], 5)};
  };
  test.reference = [tokens](Values v) {
    Array out;
    for (const std::int32_t token : tokens)
      for (std::size_t i = 0; i < 7; ++i)
        out.push_back(token < 5 || token >= 18 ? 0 : v[0][static_cast<std::size_t>(token - 5) * 7 + i]);
    return Arrays{out};
  };
  return test;
}

// Losses of shards, F64 scalars, as one: each gets the gradient of the sum.
Tensor sum_of(const std::vector<Tensor>& losses) {
  double total = 0;
  for (const Tensor& loss : losses) {
    double part = 0;
    if (loss.device().kind() != DeviceKind::meta) loss.to_host(&part);
    total += part;
  }
  Tensor sum = Tensor::from_host(&total, {1}, DType::f64, losses[0].device());
  if (!needs_record(losses, false)) return sum;
  Tensor* outputs[] = {&sum};
  record("sum_of", losses, outputs, [n = losses.size()](std::span<const Tensor> g, const BackwardContext&) {
    return std::vector<Tensor>(n, g[0].detach());
  });
  return sum;
}

// The vocabulary in three uneven parts, whose losses add up to that of the whole.
OpCase sharded_loss_case() {
  constexpr std::int64_t n = 45;
  constexpr std::int64_t hidden = 9;
  OpCase test = cross_entropy_case("sharded_linear_cross_entropy", n, hidden, 67, 48);
  test.parameters = {{.name = "w0", .shape = {10, hidden}, .scale = 0.7},
                     {.name = "w1", .shape = {1, hidden}, .scale = 0.7},
                     {.name = "w2", .shape = {56, hidden}, .scale = 0.7}};
  const auto whole = test.reference;
  test.reference = [whole](Values v) {
    Array weight;
    for (std::size_t s = 1; s < 4; ++s) weight.insert(weight.end(), v[s].begin(), v[s].end());
    const Arrays joined{v[0], weight};
    return whole(joined);
  };
  std::vector<std::int32_t> targets;
  for (std::int32_t i = 0; i < n; ++i) targets.push_back(i % 5 == 3 ? -1 : (i * 7 + 2) % 67);
  test.op = [targets](Inputs x, Weights w) {
    const float inverse = 1.0F / 37;
    Device& device = x[0].device();
    const Tensor ids = Tensor::from_host(targets.data(), {n}, DType::i32, device);
    const Tensor count = Tensor::from_host(&inverse, {1}, DType::f32, device);
    // What the shards would exchange: each one's sums over its own rows.
    const Tensor parts = Tensor::empty({3, n}, DType::f32, device);
    const std::int64_t first[] = {0, 10, 11};
    std::vector<Tensor> losses;
    for (const bool last : {false, true})
      for (std::int64_t s = 0; s < 3; ++s) {
        const auto gather = [&](const Tensor& lse) {
          if (!last) parts.narrow(0, s, 1).view({n}).copy_from(lse);
          return parts;
        };
        const Tensor loss = sharded_linear_cross_entropy(x[0], *w[static_cast<std::size_t>(s)], ids, count,
                                                         {first[s], s, gather});
        if (last) losses.push_back(loss);
      }
    return Tensors{sum_of(losses)};
  };
  return test;
}

}  // namespace

// The last case has a vocabulary so large that its tokens go in several chunks.
std::vector<OpCase> loss_cases() {
  return {embedding_case(), embedding_shard_case(), sharded_loss_case(),
          cross_entropy_case("linear_cross_entropy", 45, 9, 67, 48),
          cross_entropy_case("linear_cross_entropy_chunks", 131, 5, 65537, 4)};
}

}  // namespace tessera::testing_ops
