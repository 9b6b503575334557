// Buffers between ranks with experts: what happens where rows find no room.

#include <gtest/gtest.h>

#include <array>

#include "core/base/error.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "parallel/comm/local.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

// Tokens evenly to four experts, of which a rank has two; but all of one rank's, in one layer, to one other.
class Crowding : public RoutingObserver {
 public:
  Crowding(std::string layer, bool crowds) : layer_(std::move(layer)), crowds_(crowds) {}
  Tensor choose(const std::string& layer, std::int64_t, const Tensor&, const Tensor& chosen) override {
    std::vector<std::int32_t> all;
    for (std::int32_t t = 0; t < chosen.size(0); ++t) {
      const bool crowd = crowds_ && layer == layer_;
      all.push_back(crowd ? 0 : t % 4);
      all.push_back(crowd ? 1 : (t + 2) % 4);
    }
    return Tensor::from_host(all.data(), chosen.shape(), DType::i32, chosen.device());
  }

 private:
  std::string layer_;
  bool crowds_;
};

struct Outcome {
  std::vector<EngineReport> reports;
  bool moved = false;  // a weight, or what is not trained
  // The loss of a batch that crowds as training does, before the first step and after the last.
  double evaluated_first = 0, evaluated_last = 0;
};

std::vector<float> weights_of(const Engine& engine) {
  std::vector<float> all;
  for (const Engine::Owned& part : engine.held()) {
    std::vector<float> values(static_cast<std::size_t>(part.weight.numel()));
    part.weight.to_host(values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// Two steps on four ranks with 32 rows each, of which two and two share the experts. The last rank crowds
// layer 2. All ranks must say the same.
Outcome train(double buffer, Balance balance) {
  const Subject subject = subject_of("qwen3_moe", false, 4, 2, balance);
  constexpr int ranks = 4;
  ParallelLayout layout;
  layout.mesh.dp = ranks;
  layout.mesh.ep = 2;
  layout.expert_buffer = buffer;
  std::array<Outcome, ranks> outcomes;
  run_local_ranks(ranks, [&](ProcessGroup& world) {
    Outcome& mine = outcomes[static_cast<std::size_t>(world.rank())];
    const auto device = make_device(DeviceKind::cpu, {0, 1});
    Engine engine(subject.spec, *device, world, layout, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    engine.initialize(1);
    Crowding observer("layers.2.ffn", world.rank() == ranks - 1);
    for (Moe* moe : engine.experts()) moe->set_observer(&observer);
    const std::vector<float> before = weights_of(engine);
    const auto load = [&](std::size_t) {
      const Sample sample = draw_sample(subject, static_cast<std::uint64_t>(world.rank()));
      return make_batch(std::span(&sample, 1), subject.document_mask, *device);
    };
    mine.evaluated_first = engine.evaluate(load(0));
    for (int step = 0; step < 2; ++step) {
      engine.run_step(load, 64);
      engine.update(subject.lr, subject.clip);
      mine.reports.push_back(engine.next_report());
    }
    mine.moved = weights_of(engine) != before;
    mine.evaluated_last = engine.evaluate(load(0));
  });
  for (const Outcome& one : outcomes) {
    EXPECT_EQ(one.moved, outcomes[0].moved);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(one.reports.at(i).updated, outcomes[0].reports.at(i).updated);
      EXPECT_EQ(one.reports.at(i).experts.overflow, outcomes[0].reports.at(i).experts.overflow);
    }
  }
  return outcomes[0];
}

const char* const says =
    "layers.2.ffn: one rank has 32 rows for one rank's experts, and parallel.expert_buffer 1.7 holds 28; "
    "nothing was updated: raise it to at least 2, or to ep 2, which holds any";

class Buffers : public testing::TestWithParam<Balance> {};

TEST_P(Buffers, WithoutRoomNothingMovesAndTheLayerIsNamed) {
  const Outcome outcome = train(1.7, GetParam());
  EXPECT_FALSE(outcome.moved);
  for (const EngineReport& report : outcome.reports) {
    EXPECT_EQ(report.updated, 0);
    EXPECT_EQ(report.experts.overflow, says);
  }
  // Evaluations find room for any rows.
  EXPECT_EQ(outcome.evaluated_last, outcome.evaluated_first);
  EXPECT_EQ(outcome.evaluated_first, train(2, GetParam()).evaluated_first);
}

TEST_P(Buffers, OfAFactorOfEpHoldAnyRows) {
  const Outcome outcome = train(2, GetParam());
  EXPECT_TRUE(outcome.moved);
  EXPECT_NE(outcome.evaluated_last, outcome.evaluated_first);
  for (const EngineReport& report : outcome.reports) {
    EXPECT_EQ(report.updated, 1);
    EXPECT_EQ(report.experts.overflow, "");
    EXPECT_EQ(report.experts.slots.at(1), (std::vector<double>{40, 40, 24, 24}));  // layer 1 has no experts
  }
}

std::string name_of_balance(const testing::TestParamInfo<Balance>& test) {
  constexpr const char* names[] = {"None", "Sequence", "Global", "Bias"};
  return names[static_cast<int>(test.param)];
}

INSTANTIATE_TEST_SUITE_P(Balances, Buffers,
                         testing::Values(Balance::none, Balance::sequence, Balance::global, Balance::bias),
                         name_of_balance);

TEST(BufferFactors, SmallerThanAnEvenLoadAreRefused) {
  const Subject subject = subject_of("qwen3_moe", false, 4, 2);
  LayoutRequest request;
  request.mesh.ep = 2;
  request.expert_buffer = 0.9;
  try {
    plan_layout(request, subject.spec, subject.batch, 2);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_TRUE(std::string(e.what()).starts_with("parallel.expert_buffer 0.9 ")) << e.what();
  }
}

}  // namespace
}  // namespace tessera::verify
