// A set of layouts that has every pair of features, against one rank. tests/layouts.sh runs them all.

#include <gtest/gtest.h>

#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

class Layouts : public testing::TestWithParam<std::pair<const char*, bool>> {};

TEST_P(Layouts, EveryPairOfFeaturesComputesWhatOneRankDoes) {
  const auto [family, tied] = GetParam();
  Bench bench(subject_of(family, tied, 8, 2, tied ? Balance::global : Balance::sequence));
  const std::vector<ParallelLayout> layouts = covering(bench.layouts(8));
  EXPECT_GT(layouts.size(), 10U);
  for (const ParallelLayout& layout : layouts) {
    const Comparison result = bench.check(layout);
    EXPECT_FALSE(result.fault) << text(layout) << ": " << verdict(result);
    EXPECT_LT(result.left_out, result.elements / 20) << text(layout);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Layouts,
                         testing::Values(std::pair("llama", true), std::pair("qwen3", false),
                                         std::pair("qwen3_moe", true), std::pair("qwen3_moe", false)),
                         [](const auto& tested) {
                           return std::string(tested.param.first) + (tested.param.second ? "Tied" : "Untied");
                         });

// Rows come to their experts in the same order, whether their counts are read on the host or not.
TEST(Experts, BoundedBuffersGiveTheBitsOfCountedOnes) {
  Subject subject = subject_of("qwen3_moe", false);
  const Choices even = even_choices(subject);
  const auto compute = [&](const ParallelLayout& layout) {
    const Record record = run(subject, layout, &even);
    std::map<std::string, std::vector<float>> all{{"losses", {record.losses.begin(), record.losses.end()}},
                                                  {"norms", {record.norms.begin(), record.norms.end()}}};
    for (const auto& [name, whole] : record.gradients) all["gradient of " + name] = whole.values;
    for (const auto& [name, whole] : record.weights) all[name] = whole.values;
    return all;
  };
  for (const MeshShape& mesh :
       {MeshShape{1, 2, 1, 1, 2, 1}, MeshShape{1, 1, 1, 2, 1, 2}, MeshShape{2, 2, 1, 2, 2, 2}}) {
    ParallelLayout layout;
    layout.mesh = mesh;
    layout.schedule = mesh.pp > 1 ? ScheduleKind::zero_bubble : ScheduleKind::one_f_one_b;
    subject.model.recompute = mesh.dp > 1 ? Recompute::full : Recompute::none;
    const auto counted = compute(layout);
    for (const double factor : {1.6, 2.0}) {
      layout.expert_buffer = factor;
      const auto bounded = compute(layout);
      ASSERT_EQ(bounded.size(), counted.size());
      for (const auto& [name, values] : counted) EXPECT_EQ(bounded.at(name), values) << text(layout) << name;
    }
  }
}

TEST(Experts, LossAndBalanceAreReportedAlikeUnderAnyLayout) {
  const Subject subject = subject_of("qwen3_moe", false);
  const Record one = run(subject, {});
  ParallelLayout layout;
  layout.mesh = {2, 2, 1, 2, 4, 1};
  layout.zero = 3;
  const Record many = run(subject, layout, &one.choices);
  for (std::size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(one.losses[i], many.losses[i], 1e-5);
    EXPECT_GT(one.balances[i], 0);
    EXPECT_NEAR(one.balances[i], many.balances[i], 1e-6);
  }
  EXPECT_GT(one.choices.size(), 0U);
}

}  // namespace
}  // namespace tessera::verify
