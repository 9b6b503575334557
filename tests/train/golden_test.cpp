// Gradients and AdamW steps of models made by transformers and torch (tests/golden/models.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "core/base/json.h"
#include "core/tensor/device.h"
#include "launch/run_setup.h"
#include "parallel/comm/local.h"
#include "parallel/engine.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

// The tokens of a golden model as transformers trains on them: position i predicts token i + 1.
struct Tokens {
  explicit Tokens(const fs::path& dir) {
    const SafetensorsFile file = SafetensorsFile::open(dir / "tokens.safetensors");
    const SafetensorsTensor& stored = file.at("tokens");
    shape = {stored.shape[0], stored.shape[1]};
    tokens.resize(static_cast<std::size_t>(stored.numel()));
    file.read(stored, 0, std::as_writable_bytes(std::span(tokens)));
    const auto length = static_cast<std::size_t>(shape[1]);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      targets.push_back((i + 1) % length == 0 ? -1 : tokens[i + 1]);
  }
  Batch batch(Device& device) const {
    return {Tensor::from_host(tokens.data(), shape, DType::i32, device),
            plain_positions(shape[0], shape[1], device), Tensor(),
            Tensor::from_host(targets.data(), shape, DType::i32, device)};
  }
  std::int64_t counted() const { return shape[0] * (shape[1] - 1); }
  Shape shape;
  std::vector<std::int32_t> tokens, targets;
};

// Trains a golden model for some steps, with transformers' auxiliary loss where its config asks for it.
// `seen` is told each step's loss before the update.
void train(const fs::path& dir, int steps, const AdamWOptions& adamw, double lr, double clip,
           const std::function<void(int step, Engine& engine, double loss)>& seen) {
  const ModelSource source = open_release(dir);
  const Tokens tokens(dir);
  const Json& config = *source.description().release.config;
  ModelOptions options{DType::f32, Recompute::none, tokens.shape[1]};
  if (config.value("output_router_logits", false)) {
    options.balance.kind = Balance::global;
    options.balance.coefficient = config.at("router_aux_loss_coef").get<double>();
  }
  run_local_ranks(1, [&](ProcessGroup& world) {
    const auto device = make_device(DeviceKind::cpu, {0, 2});
    Engine engine(source.spec(), *device, world, {}, options,
                  {tokens.shape[0], tokens.shape[0], tokens.shape[1]}, 1, adamw);
    load_weights(engine, source);
    for (int step = 0; step < steps; ++step) {
      engine.run_step([&](std::size_t) { return tokens.batch(*device); }, tokens.counted());
      seen(step, engine, engine.loss() + engine.expert_load().balance);
      engine.update(lr, clip);
      engine.next_report();
    }
  });
}

class GoldenTraining : public testing::TestWithParam<std::string> {
 protected:
  static fs::path dir() { return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/models" / GetParam(); }
};

// fp32 sums over at most 166 tokens in another order: relative errors of some 1e-6 of a tensor's norm.
TEST_P(GoldenTraining, EveryGradient) {
  const SafetensorsFile file = SafetensorsFile::open(dir() / "gradients.safetensors");
  const Family& family = *open_release(dir()).description().release.family;
  std::size_t compared = 0;
  train(dir(), 1, {}, 0, 1, [&](int, Engine& engine, double) {
    for (const Engine::Owned& part : engine.owned()) {
      const auto name = release_name(family, part.name);
      ASSERT_TRUE(name) << part.name;
      std::vector<float> expected(static_cast<std::size_t>(part.gradient.numel()));
      file.read_floats(file.at(*name), 0, expected);
      double difference = 0;
      double norm = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        difference += std::pow(
            static_cast<double>(part.gradient.data<float>()[i]) - static_cast<double>(expected[i]), 2);
        norm += std::pow(static_cast<double>(expected[i]), 2);
      }
      EXPECT_LE(std::sqrt(difference), 1e-5 * std::sqrt(norm)) << *name;
      ++compared;
    }
  });
  EXPECT_EQ(compared, file.tensors().size());
}

TEST_P(GoldenTraining, TwentyStepsOfAdamW) {
  const Json steps = read_json(dir() / "steps.json");
  const AdamWOptions adamw{steps["betas"][0], steps["betas"][1], steps["eps"], steps["weight_decay"]};
  train(dir(), static_cast<int>(steps["losses"].size()), adamw, steps["lr"], steps["clip"],
        [&](int step, Engine&, double loss) {
          const double expected = steps["losses"][static_cast<std::size_t>(step)];
          EXPECT_NEAR(loss, expected, 1e-4 * expected) << "step " << step;
        });
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTraining,
                         testing::Values("llama_tied_scaled", "llama_untied_biases", "llama_old_dialect",
                                         "qwen3_untied_wide_heads", "qwen3_tied", "mixtral", "qwen3_moe",
                                         "qwen3_moe_balanced"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace tessera
