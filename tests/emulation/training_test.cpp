// Whole training runs on the emulated device, against the same runs on the CPU backend.
//
// Both compute in fp32 and differ in the order of sums only. A sum of n terms in two orders differs by about
// √n · 2⁻²⁴ of its size (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), here with n up
// to some thousand: 2e-6; ten steps of AdamW carry that on. Losses must agree within 1e-5 relative.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

constexpr double tolerance = 1e-5;

Subject small(const std::string& family, bool tied) {
  Subject subject = subject_of(family, tied, 4, 2);
  subject.steps = 10;
  return subject;
}

void expect_same_training(const Subject& subject, const ParallelLayout& layout) {
  const Record cpu = run(subject, layout);
  const Record cuda = run(subject, layout, &cpu.choices, place_on(DeviceKind::cuda));
  ASSERT_EQ(cuda.losses.size(), 10U);
  for (std::size_t i = 0; i < cpu.losses.size(); ++i) {
    EXPECT_NEAR(cuda.losses[i], cpu.losses[i], tolerance * cpu.losses[i]) << "step " << i;
    EXPECT_NEAR(cuda.norms[i], cpu.norms[i], 10 * tolerance * cpu.norms[i]) << "step " << i;
  }
  for (const auto& [name, whole] : cpu.gradients) {
    double difference = 0;
    double size = 0;
    const std::vector<float>& theirs = cuda.gradients.at(name).values;
    for (std::size_t i = 0; i < whole.values.size(); ++i) {
      difference += std::pow(double{theirs[i]} - double{whole.values[i]}, 2);
      size += std::pow(double{whole.values[i]}, 2);
    }
    EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << name;
  }
}

class Training : public testing::TestWithParam<const char*> {};

TEST_P(Training, OnOneRank) {
  expect_same_training(small(GetParam(), true), {});
}

TEST_P(Training, OnFourThreadRanks) {
  const Subject subject = small(GetParam(), false);
  ParallelLayout layout;
  layout.mesh.dp = 2;
  layout.mesh.tp = 2;
  layout.zero = 2;
  if (moe_layers(subject.spec) > 0) {
    layout.mesh.ep = layout.mesh.etp = 2;
    layout.expert_buffer = 2;
  }
  expect_same_training(subject, layout);
}

INSTANTIATE_TEST_SUITE_P(Emulated, Training, testing::Values("llama", "qwen3", "qwen3_moe"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace tessera::verify
