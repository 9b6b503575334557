// Whole models: gradients against finite differences, and bits that must not depend on threads or
// recomputation.

#include "core/nn/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "core/autograd/tape.h"
#include "core/base/philox.h"
#include "core/models/family.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

ModelSpec tiny(const std::string& model_type, bool tied) {
  Json config = {{"vocab_size", 96},
                 {"hidden_size", 32},
                 {"intermediate_size", 40},
                 {"num_hidden_layers", 2},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"tie_word_embeddings", tied},
                 {"initializer_range", 0.2},
                 {"attention_bias", !tied},
                 {"head_dim", 12}};
  config["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 1e4},
                               {"factor", 8.0},           {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
  const Family& family = find_family(model_type);
  return family.build(complete_config(family, config, "test", true));
}

constexpr std::int64_t sequences = 2;
constexpr std::int64_t length = 19;

struct Pass {
  double loss = 0;
  std::map<std::string, std::vector<float>> gradients;
};

Batch make_batch(const ModelSpec& spec, Device& device) {
  const Key key(7, "tokens");
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
  std::vector<std::int32_t> starts;
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    const auto draw = [&](std::uint64_t stream) {
      return static_cast<std::int32_t>(uniform(key, static_cast<std::uint64_t>(i) * 2 + stream) *
                                       static_cast<float>(spec.vocab_size));
    };
    tokens.push_back(draw(0));
    targets.push_back(i % 7 == 6 ? -1 : draw(1));
    starts.push_back(i % length < 6 ? 0 : 6);
  }
  const Shape shape{sequences, length};
  return {Tensor::from_host(tokens.data(), shape, DType::i32, device),
          plain_positions(sequences, length, device),
          Tensor::from_host(starts.data(), shape, DType::i32, device),
          Tensor::from_host(targets.data(), shape, DType::i32, device)};
}

double value_of(const Tensor& loss) {
  double value = 0;
  loss.to_host(&value);
  return value;
}

Pass run(const ModelSpec& spec, int threads, Recompute recompute, DType compute = DType::f32) {
  const auto device = make_device(DeviceKind::cpu, {0, threads});
  Model model(spec, *device, {compute, recompute, length});
  model.initialize(3);
  for (Parameter* p : model.parameters()) p->bind_gradient(Tensor::empty(p->shape(), DType::f32, *device));
  const float inverse = 1.0F / 33;
  const Tensor factor = Tensor::from_host(&inverse, {1}, DType::f32, *device);
  const Tensor loss = model.loss(make_batch(spec, *device), factor);
  const double one = 1;
  const Tensor seed = Tensor::from_host(&one, {1}, DType::f64, *device);
  backward(std::span(&loss, 1), std::span(&seed, 1));
  Pass result{value_of(loss), {}};
  for (Parameter* p : model.parameters()) {
    EXPECT_TRUE(p->gradient_written()) << p->name();
    std::vector<float>& gradient = result.gradients[p->name()];
    gradient.resize(static_cast<std::size_t>(p->gradient().numel()));
    p->gradient().to_host(gradient.data());
  }
  return result;
}

class ModelGradient : public testing::TestWithParam<std::tuple<const char*, bool>> {};

// Along a random direction per parameter, (L(p + hd) − L(p − hd)) / 2h must be ⟨g, d⟩. In fp32 the loss
// (about 5) is good to about 1e-7, so with h = 1e-3 along a unit direction the difference quotient is good to
// about 2e-4 absolute; gradients here have norms of 0.01 to 1, and a wrong factor or a missing term shows as
// tens of percent.
TEST_P(ModelGradient, MatchesFiniteDifferences) {
  const auto [family, tied] = GetParam();
  const ModelSpec spec = tiny(family, tied);
  const Pass base = run(spec, 1, Recompute::none);
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  Model model(spec, *device, {DType::f32, Recompute::none, length});
  model.initialize(3);
  const Batch batch = make_batch(spec, *device);
  const float inverse = 1.0F / 33;
  const Tensor factor = Tensor::from_host(&inverse, {1}, DType::f32, *device);
  for (Parameter* p : model.parameters()) {
    const auto n = static_cast<std::size_t>(p->value().numel());
    const std::vector<float>& gradient = base.gradients.at(p->name());
    // Half along the gradient, so that the expected slope is large, half random.
    std::vector<float> direction(n);
    fill_normal(direction, Key(11, p->name()), 1.0F / std::sqrt(static_cast<float>(n)), device->threads());
    double norm = 0;
    for (const float g : gradient) norm += static_cast<double>(g) * static_cast<double>(g);
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << p->name();
    double expected = 0;
    for (std::size_t i = 0; i < n; ++i) {
      direction[i] = 0.7F * direction[i] + 0.7F * gradient[i] / static_cast<float>(norm);
      expected += static_cast<double>(direction[i]) * static_cast<double>(gradient[i]);
    }
    const float h = 4e-3F;
    auto* values = p->value().data<float>();
    const std::vector<float> kept(values, values + n);
    double loss[2] = {};
    for (int side = 0; side < 2; ++side) {
      for (std::size_t i = 0; i < n; ++i) values[i] = kept[i] + (side == 0 ? h : -h) * direction[i];
      p->changed();
      const NoGrad no_grad;
      loss[side] = value_of(model.loss(batch, factor));
    }
    std::copy(kept.begin(), kept.end(), values);
    p->changed();
    EXPECT_NEAR((loss[0] - loss[1]) / (2.0 * static_cast<double>(h)), expected,
                3e-4 + 0.01 * std::fabs(expected))
        << p->name();
  }
}

TEST_P(ModelGradient, BitsDependNeitherOnThreadsNorOnRecomputation) {
  const auto [family, tied] = GetParam();
  const ModelSpec spec = tiny(family, tied);
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Pass base = run(spec, 1, Recompute::none, compute);
    for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::full})
      for (const int threads : {1, 3}) {
        const Pass other = run(spec, threads, recompute, compute);
        EXPECT_EQ(base.loss, other.loss);
        for (const auto& [name, gradient] : base.gradients)
          EXPECT_EQ(
              std::memcmp(gradient.data(), other.gradients.at(name).data(), gradient.size() * sizeof(float)),
              0)
              << name;
      }
  }
}

// A value rounded to bf16 is off by 2^-9 at most. On the way through two layers that happens some 40 times:
// independent errors add up to sqrt(40) 2^-9 = 1.2e-2. A gradient has the errors of what it goes back
// through, and of what was computed forward: twice that for all of it, and twice more for one tensor's, which
// may be a sum that cancels. A loss is a mean of 33 terms, a norm the root of thousands: of them a tenth is
// left.
TEST_P(ModelGradient, Bf16IsCloseToFp32) {
  const auto [family, tied] = GetParam();
  const ModelSpec spec = tiny(family, tied);
  const Pass fine = run(spec, 1, Recompute::none);
  const Pass coarse = run(spec, 1, Recompute::none, DType::bf16);
  const double rounding = std::sqrt(40) * std::ldexp(1, -9);
  EXPECT_NEAR(fine.loss, coarse.loss, 1e-3 * fine.loss);
  EXPECT_NE(fine.loss, coarse.loss);
  double all_difference = 0;
  double all_fine = 0;
  double all_coarse = 0;
  for (const auto& [name, gradient] : fine.gradients) {
    double difference = 0;
    double norm = 0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const double exact = gradient[i];
      const double rough = coarse.gradients.at(name)[i];
      difference += (exact - rough) * (exact - rough);
      norm += exact * exact;
      all_coarse += rough * rough;
    }
    EXPECT_LT(std::sqrt(difference / norm), 4 * rounding) << name;
    all_difference += difference;
    all_fine += norm;
  }
  EXPECT_LT(std::sqrt(all_difference / all_fine), 2 * rounding);
  EXPECT_NEAR(std::sqrt(all_coarse / all_fine), 1, 3e-3);
}

INSTANTIATE_TEST_SUITE_P(Families, ModelGradient,
                         testing::Combine(testing::Values("llama", "qwen3"), testing::Bool()));

}  // namespace
}  // namespace tessera
