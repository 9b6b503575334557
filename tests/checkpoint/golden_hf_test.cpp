// Logits of models made by transformers (tests/golden/models), through the release reader and our kernels.
//
// Built twice: in tests_checkpoint as it is, and in tests_mutants with faults that can be switched on, where
// a fault must make the comparison fail.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> golden_models() {
  std::vector<fs::path> found;
  const fs::path root = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/models";
  if (!fs::exists(root)) return found;
  for (const auto& entry : fs::directory_iterator(root))
    if (fs::exists(entry.path() / "logits.safetensors")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

// Largest difference between our logits and those of the golden file.
double difference(const fs::path& dir) {
  const SafetensorsFile token_file = SafetensorsFile::open(dir / "tokens.safetensors");
  const SafetensorsTensor& shape = token_file.at("tokens");
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shape.numel()));
  token_file.read(shape, 0, std::as_writable_bytes(std::span(tokens)));
  const SafetensorsFile golden = SafetensorsFile::open(dir / "logits.safetensors");
  std::vector<float> expected(static_cast<std::size_t>(golden.at("logits").numel()));
  golden.read_floats(golden.at("logits"), 0, expected);

  const auto device = make_device(DeviceKind::cpu, {0, 2});
  const ModelSource source = open_release(dir);
  Model model(source.spec(), *device, {DType::f32, Recompute::none, shape.shape[1]});
  load_parameters(model, source);
  const Tensor logits =
      model.logits({Tensor::from_host(tokens.data(), {shape.shape[0], shape.shape[1]}, DType::i32, *device),
                    plain_positions(shape.shape[0], shape.shape[1], *device),
                    {},
                    {}});
  std::vector<float> ours(static_cast<std::size_t>(logits.numel()));
  logits.to_host(ours.data());
  EXPECT_EQ(ours.size(), expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double distance = std::fabs(static_cast<double>(ours[i]) - static_cast<double>(expected[i]));
    worst = std::isnan(distance) ? HUGE_VAL : std::max(worst, distance);
  }
  return worst;
}

TEST(Golden, LogitsAreThoseOfTransformers) {
  const auto models = golden_models();
  ASSERT_GE(models.size(), 2U);
  for (const fs::path& dir : models) EXPECT_LE(difference(dir), 1e-4) << dir;
}

#ifdef TESSERA_MUTANTS
// Import and publish share one name map, so a swap of two tensors of one shape passes a round trip: only
// files from elsewhere show it.
TEST(Golden, NoticesSwappedGateAndUp) {
  ::setenv("TESSERA_MUTANT", "swap_gate_up", 1);
  for (const fs::path& dir : golden_models()) EXPECT_GT(difference(dir), 1e-2) << dir;
  ::unsetenv("TESSERA_MUTANT");
}
#endif

}  // namespace
}  // namespace tessera
