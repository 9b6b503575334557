// Gradients and AdamW steps of models made by transformers and torch (tests/golden/models.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "core/autograd/tape.h"
#include "core/base/json.h"
#include "core/optim/adamw.h"
#include "core/tensor/device.h"
#include "parallel/grad_norm.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

// A golden model, ready to train on its tokens as transformers does: position i predicts token i + 1.
struct Golden {
  explicit Golden(fs::path folder)
      : dir(std::move(folder)),
        device(make_device(DeviceKind::cpu, {0, 2})),
        source(open_release(dir)),
        model(source.spec(), *device, {DType::f32, Recompute::none, 83}) {
    load_parameters(model, source);
    for (Parameter* p : model.parameters()) p->bind_gradient(Tensor::zeros(p->shape(), DType::f32, *device));
    const SafetensorsFile file = SafetensorsFile::open(dir / "tokens.safetensors");
    const SafetensorsTensor& shape = file.at("tokens");
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(shape.numel()));
    file.read(shape, 0, std::as_writable_bytes(std::span(tokens)));
    std::vector<std::int32_t> targets(tokens.size());
    const auto length = static_cast<std::size_t>(shape.shape[1]);
    for (std::size_t i = 0; i < tokens.size(); ++i) targets[i] = (i + 1) % length == 0 ? -1 : tokens[i + 1];
    const Shape rows{shape.shape[0], shape.shape[1]};
    batch = {Tensor::from_host(tokens.data(), rows, DType::i32, *device),
             plain_positions(shape.shape[0], shape.shape[1], *device), Tensor(),
             Tensor::from_host(targets.data(), rows, DType::i32, *device)};
    counted = static_cast<float>(tokens.size()) - static_cast<float>(shape.shape[0]);
  }

  double forward_backward() {
    for (Parameter* p : model.parameters()) p->clear_gradient();
    const float inverse = 1.0F / counted;
    const Tensor loss = model.loss(batch, Tensor::from_host(&inverse, {1}, DType::f32, *device));
    const double one = 1;
    const Tensor seed = Tensor::from_host(&one, {1}, DType::f64, *device);
    double value = 0;
    loss.to_host(&value);
    backward(std::span(&loss, 1), std::span(&seed, 1));
    return value;
  }

  fs::path dir;
  std::unique_ptr<Device> device;
  ModelSource source;
  Model model;
  Batch batch;
  float counted = 0;
};

class GoldenTraining : public testing::TestWithParam<std::string> {
 protected:
  static fs::path dir() { return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/models" / GetParam(); }
};

// fp32 sums over at most 166 tokens in another order: relative errors of some 1e-6 of a tensor's norm.
TEST_P(GoldenTraining, EveryGradient) {
  Golden golden(dir());
  golden.forward_backward();
  const SafetensorsFile file = SafetensorsFile::open(dir() / "gradients.safetensors");
  std::size_t compared = 0;
  for (const Parameter* p : golden.model.parameters())
    for (const Segment& segment : p->segments()) {
      const auto name = release_name(*golden.source.description().release.family, segment.name);
      ASSERT_TRUE(name) << segment.name;
      const Tensor ours = p->gradient().narrow(0, segment.begin, segment.rows);
      std::vector<float> expected(static_cast<std::size_t>(ours.numel()));
      file.read_floats(file.at(*name), 0, expected);
      double difference = 0;
      double norm = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        difference +=
            std::pow(static_cast<double>(ours.data<float>()[i]) - static_cast<double>(expected[i]), 2);
        norm += std::pow(static_cast<double>(expected[i]), 2);
      }
      EXPECT_LE(std::sqrt(difference), 1e-5 * std::sqrt(norm)) << *name;
      ++compared;
    }
  EXPECT_EQ(compared, file.tensors().size());
}

TEST_P(GoldenTraining, TwentyStepsOfAdamW) {
  Golden golden(dir());
  const Json steps = read_json(dir() / "steps.json");
  const std::vector<Parameter*> parameters = golden.model.parameters();
  AdamW optimizer(parameters, {steps["betas"][0], steps["betas"][1], steps["eps"], steps["weight_decay"]});
  const double clip = steps["clip"];
  for (std::size_t i = 0; i < steps["losses"].size(); ++i) {
    const double loss = golden.forward_backward();
    const double expected = steps["losses"][i];
    EXPECT_NEAR(loss, expected, 1e-4 * expected) << "step " << i;
    optimizer.step(steps["lr"], std::min(1.0, clip / (gradient_norm(parameters) + 1e-6)));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTraining,
                         testing::Values("llama_tied_scaled", "llama_untied_biases", "llama_old_dialect",
                                         "qwen3_untied_wide_heads", "qwen3_tied"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace tessera
