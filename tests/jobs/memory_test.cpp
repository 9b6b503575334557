// What needs more memory than there is, or sizes that no machine has, is refused in one line before it is
// allocated. Limits are those of a shell (ulimit -d), so that the tests say the same on any machine.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/io.h"
#include "tests/jobs/job.h"

namespace tessera {
namespace {

class MemoryOfJobs : public testing::Test {
 protected:
  // Runs the command where a process may allocate two GB; its exit code.
  int limited(Words command) {
    Words words{"sh", "-c", "ulimit -d 2000000; exec \"$@\"", "sh"};
    words.insert(words.end(), command.begin(), command.end());
    Job job(words, {}, runs / "limited.output", runs / "");
    const int code = job.wait(60);
    output = job.output();
    return code;
  }
  int limited_verb(Words words) {
    words.insert(words.begin(), TESSERA_PROGRAM);
    return limited(words);
  }
  // Refused with this code, in one line of Tessera's that holds all the words.
  void expect_refusal(int code, int expected, const Words& words) {
    EXPECT_EQ(code, expected) << output;
    EXPECT_EQ(count(output, "error: "), 1) << output;
    for (const std::string& word : words)
      EXPECT_NE(output.find(word), std::string::npos) << word << " in: " << output;
  }

  Runs runs;
  std::string output;
  const Words large{"model.hidden_size=4096", "model.intermediate_size=16384", "model.num_hidden_layers=16"};
};

TEST_F(MemoryOfJobs, ARunThatDoesNotFitIsRefused) {
  for (const int ranks : {1, 2}) {
    expect_refusal(
        limited(runs.command("large", ranks, large)), 2,
        {"the run would take ", " of memory a rank, ", "has room for ", "(ulimit -d): share the model"});
    EXPECT_EQ(output.find("assumed"), std::string::npos) << output;
  }
  // Ranks that are threads share a process.
  Words threads = runs.command("threads", 1,
                               {"--ranks", "2", "model.hidden_size=1024", "model.num_attention_heads=16",
                                "model.intermediate_size=8192", "model.num_hidden_layers=3"});
  expect_refusal(limited(threads), 2, {"for the 2 ranks of process ", "parallel.zero: "});
  EXPECT_FALSE(std::filesystem::exists(runs / "large/step-00000003"));
}

TEST_F(MemoryOfJobs, WhatWouldFitIsSaid) {
  write_counting_file(runs / "train.h5", 12000, 60);
  expect_refusal(limited(runs.command("long", 1,
                                      {"train.micro_batch=8", "train.global_batch=8", "data.seq_len=32768",
                                       "model.num_hidden_layers=16", "parallel.reduce_groups=1"})),
                 2, {"the run would take ", "train.micro_batch: "});
}

TEST_F(MemoryOfJobs, SizesThatNobodyChoseAreSaid) {
  std::ofstream(runs / "run.yaml")
      << "model: {family: llama}\ndata: {train: [{path: train.h5}], seq_len: 16}\n"
         "train: {steps: 6, global_batch: 8, micro_batch: 2}\n";
  expect_refusal(limited(runs.command("seven", 1)), 2,
                 {"the run would take ",
                  "hidden_size 4096, intermediate_size 11008, num_hidden_layers 32 were assumed"});
}

TEST_F(MemoryOfJobs, SamplesOfAStepCount) {
  expect_refusal(
      limited(runs.command(
          "batch", 1, {"train.global_batch=1000000000", "train.micro_batch=1", "parallel.reduce_groups=1"})),
      2, {"the run would take ", "a smaller train.global_batch"});
  expect_refusal(
      limited(runs.command("batch", 1, {"train.global_batch=1000000000", "train.micro_batch=1000000000"})), 2,
      {"train.micro_batch", "tokens"});
}

TEST_F(MemoryOfJobs, OfModelsThatAreLookedAt) {
  ASSERT_EQ(runs.run("c", 1), 0) << runs.output;
  ASSERT_EQ(runs.verb({"publish", "c", "release"}), 0) << runs.output;
  write_counting_file(runs / "long.h5", 12000, 60);
  for (const char* model : {"c", "release"})
    expect_refusal(
        limited_verb({"eval", model, "--data", "long.h5", "--seq-len", "50000", "--batch", "4096"}), 1,
        {std::string("'") + model, "would take ", "room for "});
}

// A release with a large embedding, all zeros, that takes no room on the disk.
void write_sparse_release(const std::filesystem::path& folder, std::int64_t vocab) {
  std::filesystem::create_directories(folder);
  nlohmann::ordered_json config{
      {"model_type", "llama"},    {"vocab_size", vocab},         {"hidden_size", 64},
      {"intermediate_size", 64},  {"num_hidden_layers", 1},      {"num_attention_heads", 2},
      {"num_key_value_heads", 2}, {"tie_word_embeddings", true}, {"torch_dtype", "bfloat16"}};
  std::ofstream(folder / "config.json") << config.dump();
  nlohmann::ordered_json header;
  std::int64_t end = 0;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    std::int64_t bytes = 2;
    for (const std::int64_t extent : shape) bytes *= extent;
    header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  };
  add("model.embed_tokens.weight", {vocab, 64});
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    add(std::string("model.layers.0.") + part + ".weight", {64, 64});
  for (const char* part : {"layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"})
    add(std::string("model.") + part + ".weight", {64});
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  const auto path = folder / "model.safetensors";
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text;
  file.close();
  std::filesystem::resize_file(path, sizeof length + length + static_cast<std::uint64_t>(end));
}

TEST_F(MemoryOfJobs, OfReleasesThatAreImportedAndPublished) {
  write_sparse_release(runs / "sparse", 20'000'000);  // 5 GB in fp32
  expect_refusal(limited_verb({"import", "sparse", "imported"}), 1, {"'sparse'", "would take ", "room for "});
  EXPECT_FALSE(std::filesystem::exists(runs / "imported"));
  expect_refusal(limited_verb({"publish", "sparse", "again"}), 1, {"'sparse'", "would take ", "room for "});
  EXPECT_FALSE(std::filesystem::exists(runs / "again"));
}

// Sizes that the files beside them belie, or that belong to no model.
TEST_F(MemoryOfJobs, AbsurdSizesInAReleasesConfig) {
  ASSERT_EQ(runs.run("c", 1), 0) << runs.output;
  ASSERT_EQ(runs.verb({"publish", "c", "release"}), 0) << runs.output;
  const std::string original = io::read_text(runs / "release/config.json");
  const auto with = [&](const nlohmann::ordered_json& changes) {
    auto config = nlohmann::ordered_json::parse(original);
    config.update(changes);
    std::ofstream(runs / "release/config.json") << config.dump();
  };
  const std::vector<std::pair<nlohmann::ordered_json, std::string>> all{
      {{{"num_hidden_layers", 1'000'000'000}}, "num_hidden_layers"},
      {{{"num_hidden_layers", 16384}}, "'model.layers.2.input_layernorm.weight' is missing"},
      {{{"vocab_size", 1'000'000'000'000}}, "vocab_size"},
      {{{"vocab_size", 268'435'456}}, "'model.embed_tokens.weight' has shape"},
      {{{"intermediate_size", 10'000'000}}, "has shape"},
      {{{"hidden_size", 4'194'304}}, "has shape"},
      {{{"max_window_layers", -3}}, "max_window_layers"}};
  for (const auto& [changes, word] : all) {
    with(changes);
    expect_refusal(limited_verb({"import", "release", "imported"}), 1, {"release", word});
    EXPECT_FALSE(std::filesystem::exists(runs / "imported"));
  }
  const std::vector<std::pair<nlohmann::ordered_json, std::string>> experts{
      {{{"num_experts", 1'000'000'000}}, "num_local_experts"},
      {{{"num_experts", 65536}, {"num_hidden_layers", 16384}}, "num_local_experts"},
      {{{"num_experts", 60000}}, "is missing"},
      {{{"moe_intermediate_size", 1'000'000'000}}, "moe_intermediate_size"}};
  for (auto [changes, word] : experts) {
    changes["model_type"] = "qwen3_moe";
    changes["architectures"] = {"Qwen3MoeForCausalLM"};
    with(changes);
    expect_refusal(limited_verb({"import", "release", "imported"}), 1, {"release", word});
  }
}

}  // namespace
}  // namespace tessera
