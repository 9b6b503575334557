// Whole runs on thread ranks: bits that must not depend on ranks, threads, or on having been interrupted.

#include "launch/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <thread>

#include "checkpoint/model_source.h"
#include "checkpoint/publish.h"
#include "checkpoint/retention.h"
#include "checkpoint/store.h"
#include "core/base/io.h"
#include "core/tensor/device.h"
#include "parallel/comm/local.h"
#include "parallel/engine.h"
#include "parallel/replica_fault.h"
#include "tests/train/training.h"

namespace tessera {
namespace {

TEST_F(Training, BitsDependOnNeitherRanksNorThreads) {
  train("one", 1);
  const auto reference = state("one");
  ASSERT_GT(reference.size(), 10000U);
  train("again", 1);
  EXPECT_EQ(state("again"), reference);
  train("two", 2);
  EXPECT_EQ(state("two"), reference);
  train("four", 4);
  EXPECT_EQ(state("four"), reference);
  train("threads", 2, {"train.threads=2"});
  EXPECT_EQ(state("threads"), reference);
  train("recompute", 1, {"train.recompute=full"});
  EXPECT_EQ(state("recompute"), reference);
  train("groups", 1,
        {"parallel.reduce_groups=1"});  // another order of sums: other bits, or the test sees nothing
  EXPECT_NE(state("groups"), reference);
}

// Loads of a new router are not even: buffers for an even load have no room, whatever is to be done about
// numbers that are not finite.
TEST_F(Training, EndsWhereRowsFindNoRoomOnTheirWayToExperts) {
  const std::vector<std::string> experts{"model.family=qwen3_moe",
                                         "model.num_local_experts=4",
                                         "model.num_experts_per_tok=2",
                                         "model.norm_topk_prob=true",
                                         "parallel.ep=2",
                                         "optimizer.on_nonfinite=skip",
                                         "model.moe_intermediate_size=12"};
  const auto with = [&](const std::string& buffer) {
    std::vector<std::string> all = experts;
    all.push_back("parallel.expert_buffer=" + buffer);
    return all;
  };
  train("tight", 2, with("1"), ExitCode::numbers_suspect);
  EXPECT_TRUE(list_checkpoints(folder / "tight").empty());
  train("roomy", 2, with("2"));
  train("counted", 2, with("0"));
  EXPECT_EQ(state("roomy"), state("counted"));
}

TEST_F(Training, ResumesWithTheSameBitsOnOtherRanks) {
  train("whole", 1);
  for (const auto& [first, second] : {std::pair{1, 1}, {4, 2}, {2, 4}, {1, 4}}) {
    const std::string name = "parts" + std::to_string(first) + std::to_string(second);
    train(name, first, {"train.steps=3"});
    EXPECT_EQ(state(name)[0], 3.0F);
    train(name, second);
    EXPECT_EQ(state(name), state("whole")) << first << " ranks, then " << second;
  }
}

// A run that began on one rank has one reduce group; more ranks take more groups, and differ by rounding
// alone.
TEST_F(Training, GoesOnWhereRanksDoNotDivideItsGroups) {
  const std::vector<std::string> own{"parallel.reduce_groups=auto"};
  train("alone", 1, own);
  train("grown", 1, {own[0], "train.steps=3"});
  train("grown", 4, own);
  const auto reference = state("alone", "weight");
  const auto grown = state("grown", "weight");
  ASSERT_EQ(grown.size(), reference.size());
  double squares = 0;
  double difference = 0;
  for (std::size_t i = 1; i < grown.size(); ++i) {
    squares += static_cast<double>(reference[i]) * reference[i];
    difference +=
        (static_cast<double>(grown[i]) - reference[i]) * (static_cast<double>(grown[i]) - reference[i]);
  }
  // Three updates of length lr = 1e-2 by gradients that differ by rounding: AdamW's quotient m/√v carries
  // their relative error, some 1e-6 but for the few elements near zero.
  EXPECT_LT(std::sqrt(difference / squares), 1e-4);
  try {
    train("grown", 3, {own[0], "train.steps=8"});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("parallel.dp 3 data-parallel ranks do not divide"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(Training, PassesOverADamagedCheckpoint) {
  train("whole", 1);
  train("damaged", 2);
  damage(folder / "damaged/step-00000006");
  EXPECT_EQ(state("damaged")[0], 3.0F);
  train("damaged", 1);
  EXPECT_EQ(state("damaged"), state("whole"));
}

TEST_F(Training, DoesNotStartOverWhereNoCheckpointIsGood) {
  train("damaged", 1);
  for (const char* step : {"damaged/step-00000003", "damaged/step-00000006"}) damage(folder / step);
  try {
    train("damaged", 2);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no checkpoint in"), std::string::npos) << e.what();
  }
}

// A crash while the save of step 6 replaced an older one of that step.
TEST_F(Training, UndoesAReplacementThatWasCutOff) {
  train("cut", 1, {"checkpoint.keep=1"});
  const auto reference = state("cut");
  std::filesystem::rename(folder / "cut/step-00000006", folder / "cut/step-00000006.replaced");
  train("cut", 1);
  EXPECT_EQ(state("cut"), reference);
  EXPECT_FALSE(std::filesystem::exists(folder / "cut/step-00000006.replaced"));
}

TEST_F(Training, RefusesAnotherModelOrStream) {
  train("run", 1, {"train.steps=3"});
  for (const char* change : {"model.hidden_size=48", "data.seed=9", "train.global_batch=16"}) {
    try {
      train("run", 1, {change});
      FAIL() << change;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage) << e.what();
      const std::string key = std::string(change).substr(0, std::string(change).find('='));
      EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
    }
  }
}

// From a checkpoint and from what was published of it: a step of almost no length leaves exactly its weights.
TEST_F(Training, BeginsFromOtherWeights) {
  train("source", 1, {"train.steps=3"});
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  PublishOptions release;
  release.to = folder / "release";
  publish(open_model(folder / "source"), release, *device);
  std::vector<float> weights = state("source", "weight");
  weights[0] = 1;  // the step
  for (const char* from : {"source", "release"}) {
    const std::string name = std::string("from_") + from;
    train(name, 2,
          {"init.from=" + (folder / from).string(), "train.steps=1", "optimizer.lr=1e-30",
           "schedule.warmup=0"});
    EXPECT_EQ(state(name, "weight"), weights) << from;
  }
  try {
    train("other", 1, {"init.from=" + (folder / "source").string(), "model.intermediate_size=48"});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("init.from"), std::string::npos) << e.what();
  }
}

TEST_F(Training, StopsOrSkipsOnNonfiniteNumbers) {
  train("stop", 1, {"optimizer.lr=1e30", "optimizer.clip=0"}, ExitCode::numbers_suspect);
  train("skip", 2, {"optimizer.lr=1e30", "optimizer.clip=0", "optimizer.on_nonfinite=skip"});
  EXPECT_EQ(state("skip")[0], 6.0F);
}

TEST_F(Training, GivesUpAfterTooManySkippedStepsInARow) {
  const std::vector<std::string> skips{"optimizer.lr=1e30", "optimizer.clip=0", "train.steps=60",
                                       "optimizer.on_nonfinite=skip", "checkpoint.every=1000"};
  train("many", 2, skips, ExitCode::numbers_suspect);
  EXPECT_TRUE(list_checkpoints(folder / "many").empty());
  std::vector<std::string> few = skips;
  few.emplace_back("optimizer.max_skipped=60");
  train("few", 1, few);
}

// A bit of one rank's copy of a weight flips: noticed before the next save, or sooner where asked for. What
// ZeRO publishes is overwritten by the next step, so there it must flip just before.
struct Flip {
  const char* name;
  int ranks;
  std::vector<std::string> layout;
  int step;
  const char* says;
};

class Replicas : public Training, public testing::WithParamInterface<Flip> {
 protected:
  void run(bool flips, const std::vector<std::string>& more = {}) const {
    const Flip& flip = GetParam();
    std::vector<std::string> overrides = flip.layout;
    overrides.insert(overrides.end(), more.begin(), more.end());
    const Config chosen = config("flipped", overrides);
    TrainOptions options;
    options.after_step = [&](Engine& engine, std::int64_t step) {
      if (!flips || step != flip.step || engine.mesh().world().rank() != 1) return;
      for (Parameter* parameter : engine.chunks().front()->parameters()) {
        if (parameter->layout().cut != Layout::Cut::none) continue;
        static_cast<std::uint32_t*>(parameter->view(ViewKind::compute).raw())[3] ^= 1U << 18;
        return;
      }
      FAIL();
    };
    run_local_ranks(flip.ranks, [&](ProcessGroup& group) {
      EXPECT_EQ(Trainer(chosen, group, options).run(), ExitCode::ok);
    });
  }
  void expect_noticed(const std::string& after, const std::vector<std::string>& more = {}) const {
    try {
      run(true, more);
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ReplicasDiffer::exit_code) << e.what();
      EXPECT_TRUE(std::string(e.what()).starts_with(after + GetParam().says)) << e.what();
    }
    EXPECT_EQ(state("flipped")[0], 3.0F);
  }
};

TEST_P(Replicas, AFlippedBitEndsTheRunAndIsNotSaved) {
  expect_noticed("after step 5: ");
  if (GetParam().step == 4) expect_noticed("after step 3: ", {"train.compare_every=2"});
  run(false);
  EXPECT_EQ(state("flipped")[0], 6.0F);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, Replicas,
    testing::Values(Flip{"TwoReplicas", 2, {}, 4, "ranks 0, 1 hold copies that differ in layers."},
                    Flip{"FourReplicas", 4, {}, 4, "rank 1 differs from the other copies in layers."},
                    Flip{"Zero1", 4, {"parallel.zero=1"}, 6, "rank 1 differs from the other copies in "},
                    Flip{"Zero2", 2, {"parallel.zero=2"}, 6, "ranks 0, 1 hold copies that differ in "},
                    Flip{"Zero1InBf16",
                         4,
                         {"parallel.zero=1", "train.precision=bf16"},
                         6,
                         "rank 1 differs from the other copies in published weight of "},
                    Flip{
                        "TensorParallel", 2, {"parallel.tp=2"}, 4, "ranks 0, 1 hold copies that differ in "}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_F(Training, Bf16Learns) {
  train("bf16", 2, {"train.precision=bf16", "train.steps=6"});
  EXPECT_EQ(state("bf16")[0], 6.0F);
  train("bf16_again", 1, {"train.precision=bf16"});
  EXPECT_EQ(state("bf16"), state("bf16_again"));
}

}  // namespace
}  // namespace tessera
