// The typed config: what it refuses and where, overrides, printing and comparing.
#include "launch/config/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint/hf_config.h"
#include "core/base/error.h"

namespace tessera {
namespace {

const char* const small = R"(model: {family: llama, hidden_size: 64}
data: {train: [{path: a.h5}], seq_len: 32}
train: {steps: 10, global_batch: 8, micro_batch: 2}
optimizer: {lr: 1e-3}
)";

Config with(const std::vector<std::string>& overrides) {
  return parse_config(small, "c.yaml", overrides);
}

std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(text, "c.yaml", overrides);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
  return "accepted";
}

void expect_begins(const std::string& message, const std::string& begin) {
  EXPECT_EQ(message.substr(0, begin.size()), begin) << message;
}

TEST(Config, DefaultsAndAuto) {
  const Config c = with({});
  EXPECT_EQ(c.train.precision, Precision::fp32);
  EXPECT_FALSE(c.train.threads.has_value());
  EXPECT_FALSE(c.parallel.layout.mesh.dp.has_value());
  EXPECT_EQ(c.data.train.at(0).weight, 1.0);
  EXPECT_EQ((*c.model.keys)["hidden_size"], 64);
  EXPECT_EQ(c.places.at("data.train.0.path"), "c.yaml:2:23");
}

TEST(Config, OverridesReachEveryDepth) {
  const Config c = with({"train.steps=20", "data.train.0.path=b.h5", "data.train.1={path: c.h5, weight: 3}",
                         "optimizer.betas.1=0.99", "optimizer.betas=[0.8, 0.99]", "optimizer.betas.1=0.98",
                         "schedule={name: wsd, decay_steps: 4}", "train.threads=3", "model.hidden_size=128",
                         "kernels.gemm=plain", "data.tokenizer=\"010\""});
  EXPECT_EQ(c.train.steps, 20);
  EXPECT_EQ(c.data.train.at(0).path, "b.h5");
  EXPECT_EQ(c.data.train.at(1).weight, 3.0);
  EXPECT_EQ(c.optimizer.beta1, 0.8);
  EXPECT_EQ(c.optimizer.beta2, 0.98);
  EXPECT_EQ(c.schedule.name, ScheduleName::wsd);
  EXPECT_EQ(c.train.threads, 3);
  EXPECT_EQ((*c.model.keys)["hidden_size"], 128);
  EXPECT_EQ(c.kernels.at("gemm"), "plain");
  EXPECT_EQ(c.data.tokenizer, "010");
}

TEST(Config, BadOverridesNameThemselves) {
  expect_begins(refusal(small, {"train.step=1"}),
                "override train.step=1: unknown key 'step' in train; did you mean 'steps'?");
  expect_begins(refusal(small, {"train.steps"}), "override 'train.steps' is not of the form key=value");
  expect_begins(refusal(small, {"=1"}), "override '=1' is not of the form");
  expect_begins(refusal(small, {"train..steps=1"}), "override train..steps=1: the key has an empty part");
  expect_begins(refusal(small, {"train.steps="}),
                "override train.steps=: steps must be an integer of at least 1, found nothing");
  expect_begins(refusal(small, {"data.train.7.path=x"}),
                "override data.train.7.path=x: the list has 1 entries");
  expect_begins(refusal(small, {"data.train.x=1"}), "override data.train.x=1: 'x' must be an index");
  expect_begins(refusal(small, {"train.steps.a=1"}), "override train.steps.a=1: 'a' is inside an integer");
  expect_begins(refusal(small, {"optimizer.lr=nan"}),
                "override optimizer.lr=nan: lr must be a number above 0, found 'nan'");
  expect_begins(refusal(small, {"optimizer.lr=1e999"}), "override optimizer.lr=1e999: 1e999 is out of range");
  expect_begins(refusal(small, {"optimizer.lr=-1"}), "override optimizer.lr=-1: lr must be");
  expect_begins(refusal(small, {"train.steps=[1"}), "override train.steps=[1: ");
}

struct Bad {
  std::vector<std::string> lines;  // replaces or adds sections of the small config, by their first word
  const char* message;
};

std::string edited(const std::vector<std::string>& lines) {
  std::string text = small;
  for (const std::string& line : lines) {
    const std::string name = line.substr(0, line.find(':') + 1);
    const std::size_t at = text.starts_with(name) ? 0 : text.find("\n" + name) + 1;
    if (at == 0 && !text.starts_with(name)) {
      text += line + "\n";
    } else {
      text.replace(at, text.find('\n', at) - at, line);
    }
  }
  return text;
}

TEST(Config, MistakesHaveAPlaceAndAHint) {
  const std::vector<Bad> all = {
      {{"trian: {}"}, "c.yaml:5:1: unknown section 'trian'; did you mean 'train'?"},
      {{"schedule: {warmpu: 3}"}, "c.yaml:5:12: unknown key 'warmpu' in schedule; did you mean 'warmup'?"},
      {{"schedule: {name: cosin}"},
       "c.yaml:5:18: name must be one of cosine, wsd, constant, found 'cosin'; did you mean 'cosine'?"},
      {{"schedule: [1]"}, "c.yaml:5:11: schedule must be a map of keys, found a list"},
      {{"schedule:"}, "c.yaml:5:"},
      {{"schedule: {decay_steps: 5}"}, "c.yaml:5:25: schedule.decay_steps is used by the schedule wsd only"},
      {{"schedule: {min_lr: 1}"}, "c.yaml:5:20: schedule.min_lr (1) must not exceed optimizer.lr"},
      {{"train: {steps: 1, global_batch: 8, micro_batch: 3}"},
       "c.yaml:3:33: train.global_batch (8) must be a multiple"},
      {{"train: {steps: 0, global_batch: 8, micro_batch: 2}"},
       "c.yaml:3:16: steps must be an integer of at least 1, found '0'"},
      {{"train: {steps: \"3\", global_batch: 8, micro_batch: 2}"}, "c.yaml:3:16: steps must be an integer"},
      {{"train: {steps: 3.0, global_batch: 8, micro_batch: 2}"}, "c.yaml:3:16: steps must be an integer"},
      {{"train: {global_batch: 8, micro_batch: 2}"}, "c.yaml:3:8: train lacks the key steps"},
      {{"train: {steps: 1, global_batch: 8, micro_batch: 2, threads: 0}"},
       "c.yaml:3:61: threads must be auto or an integer"},
      {{"train: {steps: 1, global_batch: 8, micro_batch: 2, device: gpu}"},
       "c.yaml:3:60: device must be one of cpu, cuda, found 'gpu'"},
      {{"data: {train: [], seq_len: 32}"}, "c.yaml:2:15: train must not be empty"},
      {{"data: {train: a.h5, seq_len: 32}"}, "c.yaml:2:15: train must be a list of token files"},
      {{"data: {train: [{path: a.h5, weight: 0}], seq_len: 32}"},
       "c.yaml:2:37: train.0.weight must be a number above 0"},
      {{"data: {train: [{pth: a.h5}], seq_len: 32}"},
       "c.yaml:2:17: unknown key 'pth' in train.0; did you mean 'path'?"},
      {{"data: {train: [{path: 3}], seq_len: 32}"},
       "c.yaml:2:23: train.0.path must be a string (quote it), found '3'"},
      {{"data: {train: [{path: a.h5}], seq_len: 32, document_mask: yes}"},
       "c.yaml:2:59: document_mask must be true or false, found 'yes'"},
      {{"optimizer: {lr: 1e-3, betas: [0.9, 1.0]}"},
       "c.yaml:4:36: betas.1 must be a number in [0, 1), found '1.0'"},
      {{"optimizer: {lr: 1e-3, betas: [0.9]}"}, "c.yaml:4:30: betas must be two numbers"},
      {{"optimizer: {lr: .nan}"}, "c.yaml:4:17: lr must be a number above 0, found '.nan'"},
      {{"optimizer: {lr: .inf}"}, "c.yaml:4:17: lr must be a number above 0, found '.inf'"},
      {{"optimizer: {lr: 1e-3, clip: -1}"}, "c.yaml:4:29: clip must be a number of at least 0"},
      {{"optimizer: {lr: 1e-3, on_nonfinite: panic}"}, "c.yaml:4:37: on_nonfinite must be one of stop, skip"},
      {{"log: {eval_every: 5}"}, "c.yaml:5:19: log.eval_every needs data.valid"},
      {{"parallel: {dp: 3}"}, "c.yaml:5:16: parallel.dp (3) must divide the 4 microbatches"},
      {{"init: {seed: -1}"}, "c.yaml:5:14: seed must be an integer of at least 0"},
      {{"model: {family: lama}"}, "c.yaml:1:17: unknown model family 'lama'; did you mean 'llama'?"},
      {{"model: {family: llama, hiden_size: 3}"},
       "c.yaml:1:24: unknown key 'hiden_size' in model, of family llama; did you mean 'hidden_size'?"},
      {{"model: {family: llama, hidden_size: big}"},
       "c.yaml:1:37: 'hidden_size' is \"big\"; it must be an integer"},
      {{"model: {family: llama, hidden_size: 0}"}, "c.yaml:1:37: 'hidden_size' is 0"},
      {{"model: {family: llama, hidden_size: -64}"}, "c.yaml:1:37: 'hidden_size' is -64"},
      {{"model: {family: llama, num_key_value_heads: 5}"}, "c.yaml:1:8: model"},
      {{"model: {family: llama, rope_theta: 0}"}, "c.yaml:1:36: model: rope_parameters 'rope_theta' is 0"},
      {{"model: {family: llama, rope_scaling: {type: odd}}"}, "c.yaml:1:8: model"},
      {{"model: {family: llama, rope_scaling: linear}"},
       "c.yaml:1:38: rope_scaling must be a map, found 'linear'"},
      {{"model: {family: llama, rope_theta: 1e4, rope_parameters: 5}"},
       "c.yaml:1:58: rope_parameters must be a map"},
      {{"model: {hidden_size: 3}"}, "c.yaml:1:8: model lacks the key family"},
      {{"model: {family: qwen3_moe, num_local_experts: 1000000000}"},
       "c.yaml:1:47: 'num_local_experts' is 1000000000; it must be an integer from 1 to"},
      {{"model: {family: qwen3_moe, moe_intermediate_size: 1000000000}"},
       "c.yaml:1:51: 'moe_intermediate_size' is 1000000000; it must be an integer from 1 to"},
      {{"model: {family: qwen3_moe, num_local_experts: 65536, num_hidden_layers: 16384}"},
       "c.yaml:1:47: 'num_local_experts' makes 1073741824 experts in 16384 layers"},
      {{"model: {family: qwen3, use_sliding_window: true, max_window_layers: -1}"},
       "c.yaml:1:69: 'max_window_layers' is -1; it must be an integer from 0 to"},
      {{"model: {family: llama, hidden_size: 4194304, intermediate_size: 16777216, num_hidden_layers: "
        "16384}"},
       "c.yaml:1:8: the sizes make a model of "},
      {{"model: {family: llama, head_dim: 65536, num_attention_heads: 65536}"},
       "c.yaml:1:8: model: num_attention_heads 65536 times head_dim 65536 is more than"},
  };
  for (const Bad& bad : all) expect_begins(refusal(edited(bad.lines)), bad.message);
  expect_begins(refusal("3"), "c.yaml:1:1: a config is a map of sections");
  expect_begins(refusal("init: {seed: 1}"), "c.yaml:1:1: the section model is missing");
}

// Steps of the schedule fit the run, and products of sizes 64 bits.
TEST(Config, WhatDoesNotFitTogetherIsRefusedAtItsLine) {
  const auto train = [](const std::string& sizes) { return "train: {steps: 1000, " + sizes + "}"; };
  const std::vector<Bad> all = {
      {{"schedule: {warmup: 11}"}, "c.yaml:5:20: schedule.warmup (11) must not exceed train.steps (10)"},
      {{"schedule: {name: wsd, warmup: 4, decay_steps: 7}"},
       "c.yaml:5:47: schedule.decay_steps (7) must not exceed the 6 steps that schedule.warmup leaves"},
      {{train("global_batch: 1000000000, micro_batch: 1000000000"),
        "data: {train: [{path: a.h5}], seq_len: 3}"},
       "c.yaml:3:61: train.micro_batch (1000000000) times data.seq_len (3) must not exceed 2147483647 "
       "tokens"},
      {{train("global_batch: 4611686018427387904, micro_batch: 4611686018427387904"), "parallel: {dp: 4}"},
       "c.yaml:3:36: global_batch must be an integer from 1 to 1073741824, found '4611686018427387904'"},
      {{"train: {steps: 9000000000000000000, global_batch: 8, micro_batch: 2}"},
       "c.yaml:3:16: steps must be an integer from 1 to "},
      {{"checkpoint: {keep: 4294967296}"}, "c.yaml:5:20: keep must be an integer from 1 to "},
  };
  for (const Bad& bad : all) expect_begins(refusal(edited(bad.lines)), bad.message);
  EXPECT_EQ(refusal(edited({"schedule: {name: wsd, warmup: 4, decay_steps: 6}"})), "accepted");
  EXPECT_EQ(refusal(edited({"schedule: {warmup: 10}"})), "accepted");
}

// What saved it was checked by the rules of its day: a run goes on from it all the same.
TEST(Config, SavedConfigsAreNotCheckedAgain) {
  Config saved = with({});
  saved.schedule.warmup = 500;
  EXPECT_EQ(config_from_json(config_json(saved), "checkpoint").schedule.warmup, 500);
}

TEST(Config, SectionsWithDefaultsMayBeLeftOut) {
  const std::string least =
      "model: {family: llama, hidden_size: 64}\ndata: {train: [{path: a.h5}], seq_len: 32}\n"
      "train: {steps: 10, global_batch: 8, micro_batch: 2}\n";
  const Config c = parse_config(least, "c.yaml");
  EXPECT_EQ(c.optimizer.lr, 3e-4);
  EXPECT_EQ(c.schedule.name, ScheduleName::cosine);
  EXPECT_EQ(c.checkpoint.dir, "checkpoints");
  const Config emptied = parse_config(
      least + "optimizer: {}\nschedule: {}\ncheckpoint: {}\nlog: {}\ninit: {}\nparallel: {}\n", "c.yaml");
  EXPECT_EQ(config_json(emptied), config_json(c));
  const Json schema = Json::parse(config_schema());
  EXPECT_EQ(schema["required"], Json::array({"data", "train"}));
  for (const char* section : {"optimizer", "schedule", "checkpoint", "log", "init"})
    EXPECT_FALSE(schema["properties"][section].contains("required")) << section;
  EXPECT_EQ(schema["properties"]["optimizer"]["properties"]["lr"]["default"], 3e-4);
}

TEST(Config, MissingFileIsAUsageError) {
  try {
    load_config("/nonexistent/c.yaml");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
  }
}

TEST(Config, OlderRopeKeysBecomeTheNewer) {
  const Config c = with({"model.rope_theta=5e5",
                         "model.rope_scaling={type: llama3, factor: 8.0, low_freq_factor: 1.0, "
                         "high_freq_factor: 4.0, original_max_position_embeddings: 64}"});
  EXPECT_FALSE(c.model.keys->contains("rope_theta"));
  EXPECT_EQ((*c.model.keys)["rope_parameters"]["rope_type"], "llama3");
  EXPECT_EQ((*c.model.keys)["rope_parameters"]["rope_theta"], 5e5);
}

TEST(Config, PrintedFormsReadBackTheSame) {
  const Config c =
      with({"data.train.0.path=\"odd: path\"", "init.from=models/x", "train.precision=bf16",
            "parallel.reduce_groups=4", "kernels={gemm: plain}", "optimizer.lr=0.1234567890123456789",
            "data.valid=[{path: v.h5}]", "model.rope_theta=500000.0"});
  const std::string json = config_json(c);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  EXPECT_EQ(config_json(config_from_json(json, "checkpoint")), json);
  EXPECT_EQ(config_json(parse_config(config_yaml(c), "printed")), json);
}

TEST(Config, EveryShippedConfigLoads) {
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(TESSERA_SOURCE_DIR "/configs")) {
    const Config c = load_config(file.path());
    EXPECT_EQ(config_json(parse_config(config_yaml(c), "printed")), config_json(c)) << file.path();
    ++count;
  }
  EXPECT_GE(count, 7);
}

TEST(Config, IdentityIsModelAndDataStream) {
  const Config saved = with({});
  EXPECT_TRUE(identity_differences(saved, with({"train.steps=99", "optimizer.lr=1e-2", "train.micro_batch=4",
                                                "log.dir=x", "checkpoint.keep=9", "data.valid=[{path: v.h5}]",
                                                "data.tokenizer=t.json", "init.from=x", "parallel.dp=2",
                                                "train.recompute=full", "parallel.reduce_groups=2"}))
                  .empty());
  for (const char* one : {"model.hidden_size=128", "model.num_hidden_layers=3", "model.family=qwen3",
                          "data.seed=2", "data.seq_len=16", "data.train.0.path=b.h5", "data.train.0.weight=2",
                          "data.document_mask=true", "train.global_batch=16", "train.precision=bf16"}) {
    EXPECT_EQ(identity_differences(saved, with({one})).size(), 1u) << one;
  }
  EXPECT_EQ(identity_differences(saved, with({"train.global_batch=16"})).at(0),
            "train.global_batch (checkpoint 8, config 16)");
  // What is written out need not differ from what was left out.
  EXPECT_TRUE(
      identity_differences(with({"model.rms_norm_eps=1e-6", "model.vocab_size=8192"}), saved).empty());
  const Config rope = with({"model.rope_parameters={rope_type: default, rope_theta: 5e5}"});
  EXPECT_TRUE(identity_differences(rope, with({"model.rope_theta=500000"})).empty());
  EXPECT_EQ(identity_differences(rope, saved).size(), 1u);
}

// The parameters that the makers' releases have.
TEST(Config, ShippedModelsHaveTheirSizes) {
  const std::map<std::string, std::int64_t> sizes = {
      {"peer-28m", 27'795'968},          {"llama-3.2-1b", 1'235'814'400}, {"llama-3.1-8b", 8'030'261'248},
      {"llama-3.1-70b", 70'553'706'496}, {"qwen3-0.6b", 596'049'920},     {"qwen3-8b", 8'190'735'360},
      {"bench-1b", 1'235'814'400}};
  for (const auto& [name, size] : sizes) {
    const Config c = load_config(std::string(TESSERA_SOURCE_DIR "/configs/") + name + ".yaml");
    const ReleaseConfig release = make_release_config(find_family(c.model.family), *c.model.keys, name);
    EXPECT_EQ(parameter_count(release.spec), size) << name;
  }
}

// Random edits of a real config: each is read or refused with an Error, never anything else.
TEST(Config, MutationsAreReadOrRefused) {
  const std::string original = config_yaml(load_config(TESSERA_SOURCE_DIR "/configs/llama-3.2-1b.yaml"));
  const std::string pieces = "{}[]:,-&*!|>'\"#%@`?~ \n\t0x1e9.\xff<" + std::string(1, '\0');
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = original;
    for (unsigned edits = random() % 4 + 1; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = pieces[random() % pieces.size()];
          break;
        case 1:
          text.insert(at, 1, pieces[random() % pieces.size()]);
          break;
        case 2:
          text.erase(at, random() % 20);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 40));
      }
    }
    try {
      const Config c = parse_config(text, "c.yaml");
      EXPECT_EQ(config_json(parse_config(config_yaml(c), "printed")), config_json(c)) << text;
      ++accepted;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(accepted, 20);
}

TEST(Config, SchemaListsEveryPrintedKey) {
  const Json schema = Json::parse(config_schema());
  const Json printed = Json::parse(config_json(with({})));
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  for (const auto& [section, keys] : printed.items()) {
    ASSERT_TRUE(schema["properties"].contains(section)) << section;
    const Json& known = schema["properties"][section]["properties"];
    for (const auto& [key, value] : keys.items()) {
      if (section == "model" && key != "family") continue;
      EXPECT_TRUE(known.contains(key)) << section << "." << key;
      EXPECT_TRUE(known[key].contains("description"));
    }
  }
}

}  // namespace
}  // namespace tessera
