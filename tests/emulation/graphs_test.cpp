// Steps as graphs of the device, on the emulated one: the same numbers to the bit, from a host that gives it
// far less to do.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/comm/local.h"
#include "tests/emulation/device.h"
#include "tests/seed.h"
#include "tests/verify/short_run.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

using emulation::EmulatedCudaDevice;

struct Outcome : ShortRun {
  std::uint64_t launches = 0;  // of the last step
  int host_waits = 0;          // of the steps after the second
};

// As the last rank sees it.
Outcome train(const Subject& subject, const ParallelLayout& layout, bool graphs) {
  Outcome outcome;
  run_local_ranks(layout.mesh.ranks(), [&](ProcessGroup& world) {
    EmulatedCudaDevice device({}, test_seed());
    Engine engine(subject.spec, device, world, layout, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    if (graphs) engine.use_graphs();
    std::vector<std::uint64_t> launches;
    std::vector<int> waits;
    const auto begins = [&](int) {
      launches.push_back(device.launches());
      waits.push_back(device.host_waits());
    };
    Outcome mine{run_shortly(subject, engine, begins)};
    mine.launches = launches.back() - launches.end()[-2];
    mine.host_waits = waits.back() - waits[2];
    EXPECT_EQ(device.violations(), 0);
    if (world.rank() == world.size() - 1) outcome = mine;
  });
  return outcome;
}

// Four microbatches a step in two reduce groups: some begin a group, some go on with it.
Subject small(const std::string& family) {
  Subject subject = subject_of(family, family != "llama", 4, 2);
  subject.reduce_groups = 2;
  subject.steps = 4;
  return subject;
}

void expect_same_as_without(const Subject& subject, const ParallelLayout& layout) {
  const Outcome plain = train(subject, layout, false);
  const Outcome graphs = train(subject, layout, true);
  expect_same(graphs, plain);
  ASSERT_EQ(graphs.reports.size(), static_cast<std::size_t>(subject.steps));
  EXPECT_NE(graphs.reports.front().loss, graphs.reports.back().loss);
  EXPECT_LT(graphs.launches * 3, plain.launches);
  if (layout.mesh.ranks() == 1) {
    EXPECT_EQ(graphs.host_waits, 0);
  }
}

class Graphs : public testing::TestWithParam<const char*> {};

TEST_P(Graphs, TrainToTheSameBits) {
  Subject subject = small(GetParam());
  if (subject.spec.tied) subject.model.compute = DType::bf16;  // weights are then copied once a step
  expect_same_as_without(subject, {});
}

INSTANTIATE_TEST_SUITE_P(Emulated, Graphs, testing::Values("llama", "qwen3", "qwen3_moe"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Graphs, TrainToTheSameBitsOnDataParallelRanks) {
  Subject subject = small("qwen3");
  subject.steps = 3;
  subject.model.recompute = Recompute::full;
  subject.model.compute = DType::bf16;
  for (const int zero : {0, 1}) {
    ParallelLayout layout;
    layout.mesh.dp = 2;
    layout.zero = zero;
    expect_same_as_without(subject, layout);
  }
}

TEST(Graphs, TrainToTheSameBitsHoweverExpertsAreBalanced) {
  for (const Balance balance : {Balance::global, Balance::bias}) {
    Subject subject = subject_of("qwen3_moe", false, 4, 2, balance);
    subject.reduce_groups = 2;
    expect_same_as_without(subject, {});
  }
}

// What happens between steps: evaluations, a step that is not finite and so skipped, weights and an
// optimizer's state from elsewhere.
TEST(Graphs, GoOnWhateverHappensBetweenSteps) {
  Subject subject = small("qwen3");
  subject.model.compute = DType::bf16;
  subject.steps = 6;
  const auto run = [&](bool graphs) {
    ShortRun result;
    run_local_ranks(1, [&](ProcessGroup& world) {
      EmulatedCudaDevice device({}, test_seed());
      Engine engine(subject.spec, device, world, {}, subject.model, subject.batch, subject.reduce_groups,
                    subject.optimizer);
      if (graphs) engine.use_graphs();
      std::vector<double> evaluations;
      float kept = 0;
      const auto put = [&](float value) {
        const Tensor weight = engine.held().back().weight;
        device.copy(weight.raw(), &value, sizeof value);
        engine.weights_changed();
      };
      result = run_shortly(subject, engine, [&](int step) {
        const Sample sample = draw_sample(subject, 1000);
        evaluations.push_back(engine.evaluate(make_batch(std::span(&sample, 1), true, device)));
        if (step == 3) {
          device.copy(&kept, engine.held().back().weight.raw(), sizeof kept);
          put(std::numeric_limits<float>::infinity());
        }
        if (step == 4) {
          put(kept + 1);
          engine.optimizer().set_steps(40);
        }
      });
      for (std::size_t step = 0; step < result.reports.size(); ++step)
        EXPECT_EQ(result.reports[step].updated, step == 3 ? 0 : 1) << step;
      result.reports.clear();  // a loss that is not a number equals none
      result.weights.insert(result.weights.end(), evaluations.begin(), evaluations.end());
    });
    return result;
  };
  const ShortRun plain = run(false);
  const ShortRun graphs = run(true);
  ASSERT_EQ(graphs.weights.size(), plain.weights.size());
  for (std::size_t i = 0; i < plain.weights.size(); ++i)
    ASSERT_TRUE(graphs.weights[i] == plain.weights[i] || std::isnan(plain.weights[i])) << i;
}

TEST(Graphs, AreRefusedWhereRanksExchangeWithinAMicrobatch) {
  const auto obstacle = [&](const ParallelLayout& layout) {
    return graphs_obstacle(layout, DeviceKind::cuda);
  };
  ParallelLayout layout;
  EXPECT_EQ(obstacle(layout), "");
  EXPECT_NE(graphs_obstacle(layout, DeviceKind::cpu).find("device: cuda"), std::string::npos);
  layout.zero = 3;
  EXPECT_EQ(obstacle(layout), "") << "shares nothing out on one rank";
  layout.mesh.dp = 2;
  EXPECT_NE(obstacle(layout).find("parallel.zero"), std::string::npos);
  layout.mesh.dp = 1;
  layout.mesh.tp = 2;
  EXPECT_NE(obstacle(layout).find("parallel.tp 1"), std::string::npos);
}

}  // namespace
}  // namespace tessera::verify
