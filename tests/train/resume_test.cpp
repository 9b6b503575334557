// What may change when a run goes on, or begins with another's weights, and what is said of it.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/retention.h"
#include "core/tensor/kernel.h"
#include "launch/kernel_choices.h"
#include "launch/run_state.h"
#include "tests/checkpoint/forge.h"
#include "tests/train/training.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Resuming : public Training {
 protected:
  // What the ranks said on standard error.
  std::string log_of(const std::string& name, int ranks, const std::vector<std::string>& overrides) const {
    testing::internal::CaptureStderr();
    train(name, ranks, overrides);
    return testing::internal::GetCapturedStderr();
  }
  std::string refusal(const std::string& name, const std::vector<std::string>& overrides,
                      int ranks = 1) const {
    try {
      train(name, ranks, overrides);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  // |weights − reference| / |reference| of the newest checkpoints.
  double distance(const std::string& name, const std::vector<float>& reference) const {
    const auto weights = state(name, "weight");
    if (weights.size() != reference.size()) return INFINITY;
    double squares = 0;
    double difference = 0;
    for (std::size_t i = 1; i < weights.size(); ++i) {
      squares += std::pow(static_cast<double>(reference[i]), 2);
      difference += std::pow(static_cast<double>(weights[i]) - reference[i], 2);
    }
    return std::sqrt(difference / squares);
  }
};

#define EXPECT_SAYS(text, words) EXPECT_NE((text).find(words), std::string::npos) << (text)
#define EXPECT_SILENT(text, words) EXPECT_EQ((text).find(words), std::string::npos) << (text)

// Gradients differ by rounding alone, some 1e-6 relative, and AdamW's quotient carries that, but for the few
// elements near zero (see GoesOnWhereRanksDoNotDivideItsGroups).
TEST_F(Resuming, GoesOnWithAnotherMicrobatchUnderAnyZero) {
  const auto with = [](int zero, int micro, const std::string& more = "train.steps=6") {
    return std::vector<std::string>{"parallel.reduce_groups=auto", "parallel.zero=" + std::to_string(zero),
                                    "train.micro_batch=" + std::to_string(micro), more};
  };
  train("whole", 1, with(0, 1));
  const auto whole = state("whole", "weight");
  struct Case {
    int dp, before, after;
  };
  for (int zero = 0; zero < 4; ++zero)
    for (const auto& [dp, before, after] : {Case{1, 1, 8}, {2, 2, 1}, {2, 1, 4}, {4, 1, 2}}) {
      const std::string name = fmt::format("zero{}_dp{}_{}to{}", zero, dp, before, after);
      train(name, dp, with(zero, before, "train.steps=3"));
      const std::string log = log_of(name, dp, with(zero, after));
      EXPECT_EQ(state(name)[0], 6.0F) << name;
      EXPECT_LT(distance(name, whole), 1e-4) << name;
      EXPECT_SAYS(log, fmt::format("train.micro_batch {} instead of the run's {}", after, before));
    }
  // Other ranks as well.
  train("both", 4, with(2, 1, "train.steps=3"));
  train("both", 2, with(3, 4));
  EXPECT_LT(distance("both", whole), 1e-4);
}

TEST_F(Resuming, WhatARefusalOfGroupsSuggestsWorks) {
  train("run", 1, {"train.steps=3"});  // 4 microbatches in 4 groups
  const std::string cause = refusal("run", {"train.micro_batch=4"});
  EXPECT_SAYS(cause, "parallel.reduce_groups 4 does not go with 2 microbatches a step");
  EXPECT_SAYS(cause, "it may be 1, 2");
  for (const char* suggested : {"1", "2"}) {
    const std::string name = std::string("suggested") + suggested;
    fs::copy(folder / "run", folder / name, fs::copy_options::recursive);
    const std::string log =
        log_of(name, 1, {"train.micro_batch=4", std::string("parallel.reduce_groups=") + suggested});
    EXPECT_SAYS(log, fmt::format("parallel.reduce_groups {} instead of the run's 4", suggested));
    EXPECT_EQ(state(name)[0], 6.0F);
  }
}

struct Nothing {};
Kernel<Nothing>& test_slot() {
  static Kernel<Nothing>* const made = [] {
    auto* slot = new Kernel<Nothing>("resuming_test");
    slot->add({.device = DeviceKind::cpu, .name = "usual"});
    slot->add({.device = DeviceKind::cpu, .name = "other"});
    slot->add({.device = DeviceKind::cpu, .name = "asked", .on_request = true});
    slot->add({.device = DeviceKind::cuda, .name = "usual"});
    slot->add({.device = DeviceKind::cuda, .name = "other"});
    return slot;
  }();
  return *made;
}

TEST_F(Resuming, TheConfigsKernelsWinOverThoseOfTheRun) {
  test_slot();
  using Choices = std::map<std::string, std::string>;
  std::vector<std::string> changes;
  const auto wishes = [&](const std::vector<std::string>& overrides, const std::string& saved,
                          DeviceKind on) {
    changes.clear();
    return resumed_kernels(config("run", overrides), {{"resuming_test", saved}}, on, changes);
  };
  EXPECT_EQ(wishes({}, "asked", DeviceKind::cpu), (Choices{{"resuming_test", "asked"}}));
  EXPECT_TRUE(changes.empty());
  EXPECT_EQ(wishes({}, "usual", DeviceKind::cpu), Choices()) << "the default stays free to give way";
  EXPECT_TRUE(changes.empty());
  EXPECT_EQ(wishes({"kernels={resuming_test: other}"}, "asked", DeviceKind::cpu),
            (Choices{{"resuming_test", "other"}}));
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0], "kernels.resuming_test other instead of the run's asked");
  EXPECT_EQ(wishes({}, "gone", DeviceKind::cpu), Choices());
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_SAYS(changes[0], "lacks the run's kernel gone of resuming_test");
  // Names of another device mean something else.
  EXPECT_EQ(wishes({}, "other", DeviceKind::cuda), Choices());
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_SAYS(changes[0], "train.device cpu instead of cuda");
  EXPECT_EQ(wishes({"train.device=cuda"}, "other", DeviceKind::cpu), Choices());
  ASSERT_EQ(changes.size(), 1U);
}

TEST_F(Resuming, UnknownKernelsAreRefusedAtTheirLine) {
  const std::string slot = refusal("run", {"kernels={matmull: onednn}"});
  EXPECT_SAYS(slot, "override kernels={matmull: onednn}");
  EXPECT_SAYS(slot, "kernels.matmull is no op whose kernel can be chosen; did you mean 'matmul'?");
  const std::string candidate = refusal("run", {"kernels={matmul: onedn}"});
  EXPECT_SAYS(candidate, "kernels.matmul has no candidate 'onedn' on cpu; did you mean 'onednn'?");
  EXPECT_SAYS(refusal("run", {"kernels={matmul: cublaslt}"}), "on cpu; there are: onednn");
  train("run", 1, {"kernels={matmul: onednn}"});
}

// A checkpoint as a GPU would have left it goes on on CPUs.
TEST_F(Resuming, ChoicesOfAnotherDeviceAreDroppedAndSaid) {
  train("whole", 1);
  train("moved", 1, {"train.steps=3"});
  forge_meta(folder / "moved/step-00000003", [](Json& meta) {
    meta["config"]["train"]["device"] = "cuda";
    meta["kernels"] = {{"matmul", "cublaslt"}, {"attention_forward", "cudnn"}};
  });
  EXPECT_SAYS(log_of("moved", 1, {}),
              "train.device cpu instead of cuda: the run's kernels are chosen anew; bits");
  EXPECT_EQ(state("moved"), state("whole"));
}

TEST_F(Resuming, BeginsFromTheSameComputationOnly) {
  train("source", 1, {"train.steps=3"});
  const std::string from = "init.from=" + (folder / "source").string();
  for (const auto& [change, key] :
       {std::pair{"model.rms_norm_eps=1e-5", "model.rms_norm_eps is 1e-05, but 1e-06 in"},
        {"model.rope_theta=500000", "rope_parameters"},
        {"model.intermediate_size=48", "model.intermediate_size is 48, but 40 in"},
        {"model.family=llama", "model.family is llama, but"}}) {
    const std::string cause = refusal("other", {from, change});
    EXPECT_SAYS(cause, (folder / "source").string());
    EXPECT_SAYS(cause, key);
  }
  EXPECT_SAYS(refusal("other", {from, "model.use_sliding_window=true", "model.sliding_window=4",
                                "model.max_window_layers=0"}),
              "use_sliding_window");
  // What is not used makes no difference.
  train(
      "same", 1,
      {from, "model.sliding_window=77", "model.initializer_range=0.5", "train.steps=1", "schedule.warmup=1"});
}

TEST_F(Resuming, ChoiceBiasesAreCarriedOrSaid) {
  const std::vector<std::string> experts{
      "model={family: qwen3_moe, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
      "num_key_value_heads: 2, head_dim: 8, intermediate_size: 40, moe_intermediate_size: 12, "
      "num_local_experts: 4, num_experts_per_tok: 2, norm_topk_prob: true}",
      "train.steps=3"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), experts.begin(), experts.end());
    return more;
  };
  train("source", 1, with({"experts.balance=bias", "experts.bias_rate=0.5"}));
  const auto biases = [&](const std::string& name) {
    const LoadedCheckpoint checkpoint = open_checkpoint(folder / name);
    std::vector<float> all;
    for (const TensorInfo& info : checkpoint.tensors())
      if (info.name.ends_with("router.bias")) {
        all.resize(all.size() + 4);
        checkpoint.read_whole(info.name, info.state, all.data() + all.size() - 4);
      }
    return all;
  };
  ASSERT_EQ(biases("source").size(), 8U);
  ASSERT_NE(biases("source"), std::vector<float>(8));
  const std::string from = "init.from=" + (folder / "source").string();
  EXPECT_SILENT(log_of("carried", 2, with({from, "experts.balance=bias", "experts.bias_rate=0"})),
                "choice biases");
  EXPECT_EQ(biases("carried"), biases("source"));
  EXPECT_SAYS(log_of("dropped", 2, with({from})), "choice biases");
}

TEST_F(Resuming, ANewerDamagedCheckpointIsNamedOnceByInitFrom) {
  train("source", 1);
  fs::resize_file(folder / "source/step-00000006/shard-00000-of-00001.h5", 100);
  const std::string log =
      log_of("next", 2, {"init.from=" + (folder / "source").string(), "train.steps=1", "schedule.warmup=1"});
  EXPECT_SAYS(log, "step-00000006' is passed over");
  EXPECT_EQ(log.find("passed over"), log.rfind("passed over")) << log;
}

// A forged manifest, with a hash that holds: every number and word of it is looked at.
TEST_F(Resuming, ForgedMetaIsRefusedNotBelieved) {
  train("run", 1);
  const fs::path newest = folder / "run/step-00000006";
  fs::remove_all(folder / "run/step-00000003");
  fs::copy(newest, folder / "good", fs::copy_options::recursive);
  const Json meta = open_checkpoint(newest).meta();
  std::vector<Json::json_pointer> places;
  const Json flat = meta.flatten();
  for (const auto& [path, value] : flat.items()) {
    const Json::json_pointer place(path);
    places.push_back(place);
    for (auto parent = place.parent_pointer(); !parent.empty(); parent = parent.parent_pointer())
      if (std::find(places.begin(), places.end(), parent) == places.end()) places.push_back(parent);
  }
  ASSERT_GT(places.size(), 60U);
  const std::vector<Json> values{-1, 0, std::uint64_t{1} << 63, "x", nullptr, Json::array(), 1.5};
  std::size_t turn = 0;  // the many keys of the config, which load_config checks too, share the values out
  const Config resumed = config("run", {});
  const Dataset data({{resumed.data.train[0].path, 1}}, resumed.data.seq_len, resumed.data.document_mask,
                     resumed.data.seed);
  int refused = 0;
  for (const auto& place : places)
    for (const Json& value : values) {
      if (place.to_string().starts_with("/config/") && turn++ % values.size() >= 2) continue;
      forge_meta(newest, [&](Json& forged) { forged[place] = value; });
      SCOPED_TRACE(place.to_string() + " = " + value.dump());
      std::string cause;
      run_local_ranks(1, [&](ProcessGroup& group) {
        try {
          find_run(resumed, data, group);
        } catch (const Error& e) {
          cause = e.what();
        }
      });
      try {
        open_model(newest);
      } catch (const Error& e) {
        EXPECT_SAYS(std::string(e.what()), "step-00000006");
      }
      refused += cause.empty() ? 0 : 1;
      const std::string top = place.to_string();
      const bool number = top == "/step" || top == "/optimizer_steps" || top == "/skipped" ||
                          top == "/tokens" || top == "/reduce_groups";
      const bool believable = value == 0 && (top == "/skipped" || top == "/tokens");
      if (number || top == "/config" || top == "/kernels") {
        EXPECT_EQ(cause.empty(), believable) << cause;
      }
      fs::copy(folder / "good/manifest.json", newest / "manifest.json", fs::copy_options::overwrite_existing);
    }
  EXPECT_GT(refused, 100);
  EXPECT_EQ(refusal("run", {}), "");
}

}  // namespace
}  // namespace tessera
