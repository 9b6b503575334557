// What a small copy of a config keeps of it, and what verify says of sound layouts.

#include <gtest/gtest.h>

#include "core/tensor/device.h"
#include "launch/run_setup.h"
#include "launch/verify/expert_room.h"
#include "parallel/comm/local.h"
#include "parallel/experts.h"
#include "tests/verify/configs.h"

namespace tessera::verify {
namespace {

Small shrunk(const Planned& plan) {
  return shrink(plan.config, plan.release.spec, plan.layout, DType::f32);
}

// By layer: "e" with experts, "w" with a window, "d" neither.
std::string kinds(const ModelSpec& spec) {
  std::string text;
  for (const LayerSpec& layer : spec.layers) {
    char kind = 'd';
    for (const CellSpec& cell : layer)
      if (std::holds_alternative<MoeSpec>(cell.body))
        kind = 'e';
      else if (const auto* a = std::get_if<AttentionSpec>(&cell.body); a != nullptr && a->window > 0)
        kind = 'w';
    text += kind;
  }
  return text;
}

std::vector<std::int64_t> windows_of(const ModelSpec& spec) {
  std::vector<std::int64_t> all;
  for (const LayerSpec& layer : spec.layers)
    if (const auto& a = std::get<AttentionSpec>(layer[0].body); a.window > 0) all.push_back(a.window);
  return all;
}

TEST(Shrink, KeepsEveryKindOfLayerOfEveryChunk) {
  // ddeeeeee
  EXPECT_EQ(kinds(shrunk(planned("qwen3_moe", 2, {"parallel.dp=2"})).subject.spec), "de");
  const Small uneven = shrunk(planned("qwen3_moe", 2, {"parallel.pp=2", "parallel.layers=[5, 3]"}));
  EXPECT_EQ(kinds(uneven.subject.spec), "deee");
  EXPECT_EQ(uneven.layout.layers, (std::vector<std::int64_t>{2, 2}));
  // A border between kinds that is one between stages, and a stage that ends in another kind than it began.
  const Small border = shrunk(planned(
      "qwen3_moe", 3, {"parallel.pp=3", "parallel.layers=[2, 4, 2]", "model.mlp_only_layers=[0, 1, 2, 5]"}));
  EXPECT_EQ(kinds(border.subject.spec), "ddede");
  EXPECT_EQ(border.layout.layers, (std::vector<std::int64_t>{1, 3, 1}));
  // Stages of unlike length stay so.
  const Small lengths = shrunk(planned("llama", 3, {"parallel.pp=3", "parallel.layers=[3, 2, 3]"}));
  EXPECT_EQ(lengths.layout.layers, (std::vector<std::int64_t>{2, 1, 2}));
}

TEST(Shrink, KeepsWindowsThatEndInsideAPieceAndBeyondOne) {
  for (const int cp : {1, 2, 4}) {
    const Small small = shrunk(planned("qwen3", cp, {"parallel.cp=" + std::to_string(cp)}));
    const std::vector<std::int64_t> windows = windows_of(small.subject.spec);
    ASSERT_EQ(windows.size(), 2U);
    const std::int64_t seq_len = small.subject.batch.seq_len;
    const std::int64_t piece = cp == 1 ? 8 : seq_len / (2 * cp);
    EXPECT_LT(windows[0], piece);
    EXPECT_GT(windows[1], piece);
    EXPECT_LT(windows[1], 2 * piece);
    for (const std::int64_t window : windows) EXPECT_NE(seq_len % window, 0) << window;
    // Some sequence shows both borders: a document longer than the larger one.
    const Sample sample = draw_sample(small.subject, 0);
    EXPECT_GT(*std::max_element(sample.positions.begin(), sample.positions.end()), windows[1]);
  }
}

TEST(Shrink, KeepsSeveralMicrobatchesOfAGroupAndOddNumbersOfGroups) {
  const auto rounds = [](std::vector<std::string> overrides, int ranks) {
    const Subject subject = shrunk(planned("llama", ranks, std::move(overrides))).subject;
    return std::pair(subject.reduce_groups, subject.batch.microbatches());
  };
  EXPECT_EQ(rounds({"parallel.dp=2"}, 2), std::pair(2L, 4L));  // two groups of twelve
  // Twelve groups a rank are no subtree of 24; neither are six of twelve, but two of four would be.
  EXPECT_EQ(rounds({"parallel.dp=2", "parallel.reduce_groups=24"}, 2), std::pair(12L, 12L));
  EXPECT_EQ(rounds({"parallel.dp=2", "parallel.reduce_groups=8"}, 2), std::pair(4L, 8L));
  EXPECT_EQ(rounds({"parallel.dp=2", "parallel.reduce_groups=6"}, 2), std::pair(6L, 12L));
  EXPECT_EQ(rounds({"parallel.dp=3", "parallel.reduce_groups=3"}, 3), std::pair(3L, 6L));
  EXPECT_EQ(rounds({"parallel.pp=2", "parallel.reduce_groups=3"}, 2), std::pair(3L, 6L));
  // A pipeline of four stages is full with four microbatches.
  EXPECT_EQ(rounds({"parallel.pp=4", "parallel.reduce_groups=1"}, 4), std::pair(1L, 4L));
}

TEST(Shrink, KeepsOddNumbersOfExpertsOfARank) {
  const auto experts = [](int number, int ep) {
    const Small small = shrunk(planned("qwen3_moe", 4,
                                       {"parallel.dp=4", "parallel.ep=" + std::to_string(ep),
                                        "model.num_local_experts=" + std::to_string(number)}));
    for (const CellSpec& cell : small.subject.spec.layers.back())
      if (const auto* moe = std::get_if<MoeSpec>(&cell.body)) return moe->experts;
    return std::int64_t{0};
  };
  EXPECT_EQ(experts(128, 4), 8);
  EXPECT_EQ(experts(36, 4), 12);  // nine a rank: three
  EXPECT_EQ(experts(4, 4), 4);
}

TEST(Shrink, MakesEveryTermOfAnUpdateShow) {
  const Subject subject = shrunk(planned("llama", 2, {"parallel.dp=2"})).subject;
  EXPECT_EQ(subject.optimizer.weight_decay, 1);
  EXPECT_GT(subject.optimizer.eps, 1e-5);
  const Subject without =
      shrunk(planned("llama", 2, {"parallel.dp=2", "optimizer.weight_decay=0", "optimizer.clip=0"})).subject;
  EXPECT_EQ(without.optimizer.weight_decay, 0);
  EXPECT_EQ(without.clip, 0);
}

// Every token chooses an expert of either rank, but three choose two of the first's.
TEST(TightBuffer, IsJustFull) {
  Planned plan = planned("qwen3_moe", 2, {"parallel.dp=2", "parallel.ep=2", "parallel.expert_buffer=1.5"});
  Small small = shrunk(plan);
  small.subject.steps = 1;
  const std::int64_t tokens = small.subject.batch.micro_batch * small.subject.batch.seq_len;
  Choices choices;
  std::string name;
  for (std::size_t i = 0; i < small.subject.spec.layers.size(); ++i)
    for (const CellSpec& cell : small.subject.spec.layers[i])
      if (std::holds_alternative<MoeSpec>(cell.body)) name = "layers." + std::to_string(i) + ".ffn";
  for (std::int64_t m = 0; m < small.subject.batch.microbatches(); ++m)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const bool crowds = m == 1 && t < 3;  // both of three tokens' experts are the first rank's
      choices[{name, m}].push_back(0);
      choices[{name, m}].push_back(crowds ? 1 : 3);
    }
  const auto tight = tight_buffer(small.subject, small.layout, choices);
  ASSERT_TRUE(tight);
  EXPECT_EQ(tight->layer, name);
  EXPECT_EQ(tight->rows, tokens + 3);
  EXPECT_EQ(buffer_rows({tight->factor}, 2 * tokens, 2), tokens + 3);
  EXPECT_EQ(buffer_rows({*tight->below}, 2 * tokens, 2), tokens + 2);
}

// Zeros, and no biases of choices.
class Zeros : public ModelSource::Reader {
 public:
  void read(const LogicalTensor&, std::int64_t, std::int64_t, std::span<float> out) const override {
    std::fill(out.begin(), out.end(), 0.0F);
  }
};

TEST(Import, BeginsWithoutBiasesOfChoicesThatTheSourceLacks) {
  const Planned plan = planned("qwen3_moe", 1, {"experts.balance=bias"});
  const Small small = shrunk(plan);
  ModelDescription description{plan.release, DType::f32, {}};
  description.release.spec = small.subject.spec;
  const ModelSource source(description, "zeros", std::make_shared<Zeros>());
  run_local_ranks(1, [&](ProcessGroup& world) {
    const auto device = make_device(DeviceKind::cpu, {0, 1});
    Engine engine(small.subject.spec, *device, world, {}, small.subject.model, small.subject.batch,
                  small.subject.reduce_groups, small.subject.optimizer);
    draw_weights(small.subject, engine);  // biases too
    load_weights(engine, source);
    int untrained = 0;
    for (const Engine::Owned& part : engine.held()) {
      std::vector<float> values(static_cast<std::size_t>(part.weight.numel()));
      part.weight.to_host(values.data());
      for (const float value : values) EXPECT_EQ(value, 0) << part.name;
      untrained += part.first_moment.defined() ? 0 : 1;
    }
    EXPECT_EQ(untrained, 1);
  });
}

struct Sound {
  const char* name;
  const char* family;
  int ranks;
  std::vector<std::string> overrides;
};

class SoundLayouts : public testing::TestWithParam<Sound> {};

// Everything that verify runs, in both precisions, on layouts without a fault.
TEST_P(SoundLayouts, AreFoundSo) {
  VerifyOptions options;
  options.bf16 = true;
  const Verdict verdict =
      verify_plan(planned(GetParam().family, GetParam().ranks, GetParam().overrides), options);
  EXPECT_FALSE(verdict.fault) << report(verdict);
}

INSTANTIATE_TEST_SUITE_P(
    Verify, SoundLayouts,
    testing::Values(
        Sound{"Zero3", "qwen3", 2, {"parallel.dp=2", "parallel.zero=3", "train.recompute=full"}},
        Sound{"OddGroups", "llama", 3, {"parallel.dp=3", "parallel.reduce_groups=3", "parallel.zero=1"}},
        Sound{"Context", "qwen3", 4, {"parallel.cp=2", "parallel.tp=2", "train.micro_batch=2"}},
        Sound{"Ulysses", "qwen3", 4, {"parallel.cp=4", "parallel.context=ulysses"}},
        Sound{"Interleaved",
              "llama",
              4,
              {"parallel.pp=2", "parallel.dp=2", "parallel.schedule=interleaved", "parallel.virtual_stages=2",
               "model.tie_word_embeddings=true"}},
        Sound{"Uneven",
              "qwen3",
              3,
              {"parallel.pp=3", "parallel.layers=[3, 4, 1]", "parallel.schedule=zero_bubble"}},
        Sound{"KvCopies", "llama", 4, {"parallel.tp=4", "parallel.zero=1"}},
        Sound{"BoundedExperts",
              "qwen3_moe",
              4,
              {"parallel.dp=2", "parallel.tp=2", "parallel.ep=2", "parallel.etp=2",
               "parallel.expert_buffer=1.25", "parallel.zero=2"}},
        Sound{"BiasedExperts",
              "qwen3_moe",
              4,
              {"parallel.pp=2", "parallel.cp=2", "parallel.ep=2", "experts.balance=bias",
               "train.recompute=full"}},
        Sound{"GlobalBalance",
              "qwen3_moe",
              4,
              {"parallel.dp=4", "parallel.ep=4", "experts.balance=global", "parallel.expert_buffer=2"}}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace tessera::verify
