// Verbs as a user types them: what they write, what they print, and one line for each mistake.

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "core/base/io.h"
#include "data/dataset.h"
#include "tests/data/compressed.h"
#include "tests/jobs/job.h"

namespace tessera {
namespace {

class Verbs : public testing::Test {
 protected:
  // The verb fails with this code, and with one line that holds all the words.
  void expect_mistake(const Words& arguments, int code, const Words& words) {
    EXPECT_EQ(runs.verb(arguments), code) << runs.output;
    EXPECT_EQ(count(runs.output, "\n"), 1) << runs.output;
    for (const std::string& word : words) EXPECT_NE(runs.output.find(word), std::string::npos) << runs.output;
  }
  Runs runs;
};

TEST_F(Verbs, DataInspectWritesWhatTheStepsTrainOn) {
  const Words config{"data", "inspect", "run.yaml", "checkpoint.dir=c", "log.dir=l"};
  Words some = config;
  some.insert(some.end(), {"--steps", "5:8", "--out", "some.safetensors"});
  ASSERT_EQ(runs.verb(some), 0) << runs.output;
  const SafetensorsFile file = SafetensorsFile::open(runs / "some.safetensors");
  const SafetensorsTensor& tensor = file.at("tokens");
  EXPECT_EQ(tensor.dtype, DType::i32);
  EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{3, 8, 17}));
  std::vector<std::int32_t> tokens(std::size_t{3} * 8 * 17);
  file.read(tensor, 0, std::as_writable_bytes(std::span(tokens)));
  // The windows of steps 5 to 7, by the definition of the stream: samples 40 to 63, each of a window's 17
  // tokens, which in this file count up modulo 60.
  for (std::size_t i = 0; i < 24; ++i) {
    const std::int32_t* row = tokens.data() + i * 17;
    for (int j = 1; j < 17; ++j) EXPECT_EQ(row[j], (row[0] + j) % 60);
  }
  const Dataset dataset({{runs / "train.h5", 1.0}}, 16, true, 1);
  for (std::size_t i = 0; i < 24; ++i) {
    const Sample sample = dataset.sample(40 + i);
    EXPECT_TRUE(std::equal(sample.tokens.begin(), sample.tokens.end(), tokens.data() + i * 17)) << i;
  }
  for (const char* bad : {"3:3", "4:2", "x", "1:", ":2", "-1:2", "1:2:3"}) {
    Words words = config;
    words.insert(words.end(), {std::string("--steps=") + bad, "--out", "bad.safetensors"});
    expect_mistake(words, 2, {"--steps", "A:B"});
    EXPECT_FALSE(std::filesystem::exists(runs / "bad.safetensors"));
  }
}

TEST_F(Verbs, WithoutAGpuCudaSaysWhatToDo) {
  if (runs.run("on_gpu", 1, {"train.device=cuda"}) == 0) GTEST_SKIP() << "there is a GPU";
  EXPECT_EQ(count(runs.output, "\n"), 1) << runs.output;
  EXPECT_NE(runs.output.find("or compute on the CPU (train.device: cpu)"), std::string::npos) << runs.output;
  expect_mistake({"train", "run.yaml", "parallel.sum_order=native", "checkpoint.dir=c"}, 2,
                 {"parallel.sum_order", "train.device: cuda"});
  expect_mistake({"train", "run.yaml", "train.cuda_graphs=true", "checkpoint.dir=c"}, 2,
                 {"train.cuda_graphs", "train.device: cuda"});
}

TEST_F(Verbs, RanksThatMeetAtAFileNeedGpusAndAPlace) {
  expect_mistake({"train", "run.yaml", "--ranks", "2", "--rank", "0"}, 2, {"--rank and --meet go together"});
  expect_mistake({"train", "run.yaml", "--ranks", "2", "--meet", "here"}, 2,
                 {"--rank and --meet go together"});
  expect_mistake({"train", "run.yaml", "--ranks", "2", "--rank", "2", "--meet", "here"}, 2,
                 {"rank 2 of 2 is none"});
  expect_mistake({"train", "run.yaml", "--ranks", "2", "--rank", "1", "--meet", "here"}, 2,
                 {"train.device: cuda", "--ranks alone", "mpirun"});
  EXPECT_FALSE(std::filesystem::exists(runs / "here"));
}

TEST_F(Verbs, PublishRefusesExpertsChosenByABias) {
  ASSERT_EQ(
      runs.run("biased", 1,
               {"model={family: qwen3_moe, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
                "num_key_value_heads: 2, head_dim: 8, intermediate_size: 40, moe_intermediate_size: 12, "
                "num_local_experts: 4, num_experts_per_tok: 2, norm_topk_prob: true}",
                "experts.balance=bias"}),
      0)
      << runs.output;
  expect_mistake({"publish", "biased", "release"}, 1, {"layers.0.ffn", "experts.balance: bias"});
  EXPECT_FALSE(std::filesystem::exists(runs / "release"));
}

TEST_F(Verbs, CheckpointInspectNamesTheBadOne) {
  ASSERT_EQ(runs.run("run", 1, {"checkpoint.keep=3"}), 0) << runs.output;
  ASSERT_EQ(runs.verb({"checkpoint", "inspect", "run", "--verify", "--tensors"}), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "every byte has its hash"), 2) << runs.output;
  EXPECT_EQ(count(runs.output, " adam_m "), 2 * count(runs.output, " weight ") / 2) << runs.output;
  EXPECT_GT(count(runs.output, " weight "), 20) << runs.output;
  std::fstream shard(runs / "run/step-00000003/shard-00000-of-00001.h5",
                     std::ios::in | std::ios::out | std::ios::binary);
  shard.seekp(20000);
  shard.put('\x55');
  shard.close();
  EXPECT_EQ(runs.verb({"checkpoint", "inspect", "run", "--verify"}), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "every byte has its hash"), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "step-00000003/shard-00000-of-00001.h5' is damaged"), 1) << runs.output;
  expect_mistake({"checkpoint", "inspect", "nowhere"}, 1, {"nowhere", "no checkpoint"});
}

TEST_F(Verbs, TextToReleaseAndBack) {
  std::ofstream text(runs / "corpus.txt");
  for (int i = 0; i < 3000; ++i)
    text << "line " << i * i << " of a small corpus\n" << (i % 3 == 0 ? "\n" : "");
  text.close();
  ASSERT_EQ(runs.verb({"tokenizer", "train", "--vocab-size", "300", "--out", "tok.json", "corpus.txt"}), 0)
      << runs.output;
  ASSERT_EQ(runs.verb({"data", "prepare", "--tokenizer", "tok.json", "--out", "t.h5", "--documents",
                       "blank-line", "--valid-fraction", "0.1", "corpus.txt"}),
            0)
      << runs.output;
  ASSERT_EQ(runs.run("c", 1, {"data.train=[{path: " + (runs / "t.h5").string() + "}]", "train.steps=3"}), 0)
      << runs.output;
  ASSERT_EQ(runs.verb({"publish", "c", "release"}), 0) << runs.output;
  EXPECT_NE(runs.output.find("bit for bit"), std::string::npos) << runs.output;
  ASSERT_EQ(runs.verb({"eval", "release", "--data", "t.valid.h5", "--seq-len", "16"}), 0) << runs.output;
  EXPECT_NE(runs.output.find("perplexity"), std::string::npos) << runs.output;
  ASSERT_EQ(runs.verb({"generate", "release", "--prompt", "line 1", "--max-tokens", "5"}), 0) << runs.output;
  EXPECT_EQ(runs.output.rfind("line 1", 0), 0U) << runs.output;
  ASSERT_EQ(runs.verb({"import", "release", "again"}), 0) << runs.output;
  ASSERT_EQ(runs.verb({"publish", "again", "release2"}), 0) << runs.output;
  const auto weights = [&](const char* folder) {
    std::ifstream file(runs / folder / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_GT(weights("release").size(), 1000U);
  EXPECT_EQ(weights("release"), weights("release2"));  // exporting again gives identical bytes
}

// What a tokenizer is trained on is what data prepare reads: compressed or in JSON lines, it is the same
// text.
TEST_F(Verbs, TokenizersAreTrainedOnTextAlone) {
  std::string text, rows;
  for (int i = 0; i < 500; ++i) {
    const std::string line = fmt::format("line {} of a small corpus", i * i);
    text += line + "\n";
    rows += fmt::format("{{\"id\": {}, \"text\": \"{}\\n\"}}\n", i, line);
  }
  const std::map<std::string, std::string> files{{"a.txt", text},
                                                 {"a.txt.gz", gzipped(text)},
                                                 {"a.txt.zst", zstd_compressed(text)},
                                                 {"a.jsonl", rows},
                                                 {"a.jsonl.gz", gzipped(rows)},
                                                 {"empty.txt", ""},
                                                 {"empty.txt.gz", ""},
                                                 {"cut.txt.zst", zstd_compressed(text).substr(0, 50)},
                                                 {"nul.jsonl", std::string("{\"text\": \"a\"}\n\0", 16)}};
  for (const auto& [name, content] : files) std::ofstream(runs / name, std::ios::binary) << content;
  const auto trained = [&](const Words& inputs) {
    Words words{"tokenizer", "train", "--vocab-size", "300", "--out", "tok.json"};
    words.insert(words.end(), inputs.begin(), inputs.end());
    EXPECT_EQ(runs.verb(words), 0) << runs.output;
    std::ifstream file(runs / "tok.json", std::ios::binary);
    std::string json(std::istreambuf_iterator<char>(file), {});
    std::filesystem::remove(runs / "tok.json");
    std::filesystem::remove(runs / "tokenizer_config.json");
    return json;
  };
  const std::string reference = trained({"a.txt"});
  EXPECT_GT(reference.size(), 1000U);
  for (const char* name : {"a.txt.gz", "a.txt.zst", "a.jsonl", "a.jsonl.gz"})
    EXPECT_EQ(trained({name}), reference) << name;
  EXPECT_EQ(trained({"empty.txt", "a.txt"}), reference);
  for (const Words& verb : {Words{"tokenizer", "train", "--vocab-size", "300", "--out", "refused"},
                            Words{"data", "prepare", "--tokenizer", "reference.json", "--out", "refused"}}) {
    std::ofstream(runs / "reference.json") << reference;
    for (const auto& [name, words] :
         std::map<std::string, Words>{{"empty.txt.gz", {"'empty.txt.gz'", "no byte"}},
                                      {"cut.txt.zst", {"'cut.txt.zst'", "truncated"}},
                                      {"nul.jsonl", {"nul.jsonl:2:", "NUL"}},
                                      {"absent.txt", {"'absent.txt'"}}}) {
      Words inputs = verb;
      inputs.insert(inputs.end(), {"a.txt", name, "a.jsonl"});
      EXPECT_EQ(runs.verb(inputs), 1) << runs.output;
      EXPECT_EQ(count(runs.output, "error: "), 1) << runs.output;
      for (const std::string& word : words)
        EXPECT_NE(runs.output.find(word), std::string::npos) << runs.output;
      EXPECT_FALSE(std::filesystem::exists(runs / "refused"));
    }
  }
}

TEST_F(Verbs, EvalLooksAtItsFilesFirst) {
  ASSERT_EQ(runs.run("c", 1, {"train.steps=3"}), 0) << runs.output;
  ASSERT_EQ(runs.verb({"eval", "c", "--data", "train.h5", "--seq-len", "16"}), 0) << runs.output;
  const auto write = [&](const char* name, int tokens, const char* tokenizer) {
    TokenFileWriter writer(runs / name, 60, std::nullopt, tokenizer);
    writer.add(std::vector<std::uint32_t>(static_cast<std::size_t>(tokens), 5), 1);
    writer.finish();
  };
  write("other.h5", 100, "{\"another tokenizer\": 1}");
  write("again.h5", 100, "{ \"a tokenizer\": 1 }");  // the same, written out by another program
  write("none.h5", 100, "");
  write("short.h5", 16, "{\"a tokenizer\": 1}");
  for (const char* name : {"again.h5", "none.h5"})
    EXPECT_EQ(runs.verb({"eval", "c", "--data", name, "--seq-len", "16"}), 0) << runs.output;
  for (const auto& [name, words] :
       std::map<std::string, Words>{{"other.h5", {"'other.h5'", "another tokenizer", "step-00000003"}},
                                    {"short.h5", {"'short.h5'", "16 tokens", "seq_len 16"}},
                                    {"absent.h5", {"'absent.h5'"}}}) {
    expect_mistake({"eval", "c", "--data", "train.h5", name, "--seq-len", "16"}, 1, words);
    EXPECT_EQ(count(runs.output, "evaluating"), 0) << runs.output;
  }
  expect_mistake({"data", "bigram", "train.h5", "other.h5"}, 1, {"train.h5", "other.h5", "tokenizers"});
}

// What follows "loss: " in the output of eval.
double loss_in(const std::string& output) {
  const std::size_t at = output.find("loss: ");
  return at == std::string::npos ? -1 : std::stod(output.substr(at + 6));
}

TEST_F(Verbs, EvalOfACheckpointIsTheRunsOwnValidation) {
  write_counting_file(runs / "valid.h5", 90, 60);
  for (const char* precision : {"fp32", "bf16"}) {
    const std::string name = precision;
    ASSERT_EQ(runs.run(name, 1,
                       {"data.valid=[{path: " + (runs / "valid.h5").string() + "}]", "log.eval_every=6",
                        std::string("train.precision=") + precision}),
              0)
        << runs.output;
    double own = 0;
    std::ifstream lines(runs / (name + "_log/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);)
      if (const auto json = nlohmann::json::parse(line); json.contains("valid_loss"))
        own = json.at("valid_loss").get<double>();
    ASSERT_GT(own, 0);
    ASSERT_EQ(runs.verb({"eval", name, "--data", "valid.h5"}), 0) << runs.output;
    EXPECT_NEAR(loss_in(runs.output), own, 0.6e-5)
        << precision << ": " << runs.output;  // five digits are printed
    EXPECT_NE(runs.output.find("windows of 16 tokens, documents masked"), std::string::npos) << runs.output;
    // Options win.
    for (const Words& other : {Words{"--seq-len", "32"}, Words{"--no-document-mask"}}) {
      Words words{"eval", name, "--data", "valid.h5"};
      words.insert(words.end(), other.begin(), other.end());
      ASSERT_EQ(runs.verb(words), 0) << runs.output;
      EXPECT_GT(std::abs(loss_in(runs.output) - own), 1e-4) << other[0] << ": " << runs.output;
    }
  }
}

// A model that is trained on keeps what makes it usable; a config need not repeat what it is.
TEST_F(Verbs, AFineTuneKeepsWhatItBeganFrom) {
  std::ofstream text(runs / "corpus.txt");
  for (int i = 0; i < 3000; ++i) text << "line " << i * i << " of a small corpus\n";
  text.close();
  ASSERT_EQ(runs.verb({"tokenizer", "train", "--vocab-size", "300", "--out", "tok.json", "corpus.txt"}), 0);
  ASSERT_EQ(runs.verb({"data", "prepare", "--tokenizer", "tok.json", "--out", "t.h5", "corpus.txt"}), 0);
  ASSERT_EQ(runs.run("c", 1, {"data.train=[{path: " + (runs / "t.h5").string() + "}]", "train.steps=3"}), 0)
      << runs.output;
  ASSERT_EQ(runs.verb({"publish", "c", "release"}), 0) << runs.output;
  const std::map<std::string, std::string> kept{
      {"tokenizer_config.json", "{\"chat_template\": \"{{ 1 }}\", \"eos_token\": \"<|end_of_text|>\"}"},
      {"special_tokens_map.json", "{\"eos_token\": \"<|end_of_text|>\"}"},
      {"chat_template.jinja", "{{ messages }}"},
      {"generation_config.json", "{\"temperature\": 0.25}"},
      {"LICENSE", "Do as you please."}};
  for (const auto& [name, content] : kept) std::ofstream(runs / "release" / name) << content;
  auto config = nlohmann::ordered_json::parse(io::read_text(runs / "release/config.json"));
  config["of_somebody_else"] = 5;
  std::ofstream(runs / "release/config.json") << config.dump();
  ASSERT_EQ(runs.verb({"import", "release", "imported"}), 0) << runs.output;
  for (const char* from : {"release", "imported"}) {
    std::ofstream(runs / "tune.yaml")
        << "init: {from: " << from << "}\ndata: {train: [{path: t.h5}], seq_len: 16}\n"
        << "train: {steps: 2, global_batch: 2, micro_batch: 2, threads: 1}\n"
        << "checkpoint: {dir: tuned_" << from << "}\n";
    ASSERT_EQ(runs.verb({"train", "tune.yaml"}), 0) << runs.output;
    // It goes on without what it began from.
    std::filesystem::rename(runs / from, runs / "gone");
    ASSERT_EQ(runs.verb({"train", "tune.yaml", "train.steps=3"}), 0) << runs.output;
    EXPECT_NE(runs.output.find("resumed from step 2"), std::string::npos) << runs.output;
    std::filesystem::rename(runs / "gone", runs / from);
    const std::string published = std::string("published_") + from;
    ASSERT_EQ(runs.verb({"publish", std::string("tuned_") + from, published}), 0) << runs.output;
    for (const auto& [name, content] : kept)
      EXPECT_EQ(io::read_text(runs / published / name), content) << name;
    EXPECT_EQ(nlohmann::json::parse(io::read_text(runs / published / "config.json")),
              nlohmann::json::parse(config.dump()))  // in any order
        << from;
  }
  expect_mistake({"train", "tune.yaml", "checkpoint.dir=d", "model={family: qwen3, num_hidden_layers: 3}"}, 2,
                 {"model.num_hidden_layers is 3, but 2 in 'imported'"});
  expect_mistake({"train", "tune.yaml", "checkpoint.dir=d", "model={rope_theta: 5e5}"}, 2,
                 {"model.rope_parameters is ", "500000.0", "10000.0", "'imported'"});
  expect_mistake({"train", "tune.yaml", "checkpoint.dir=d", "model={family: llama}"}, 2,
                 {"model.family is llama, but 'imported' holds a qwen3 model"});
  expect_mistake({"train", "tune.yaml", "checkpoint.dir=d", "model={hiden_size: 3}"}, 2,
                 {"hiden_size", "hidden_size"});
  expect_mistake({"train", "tune.yaml", "checkpoint.dir=d", "init.from=nowhere"}, 1,
                 {"nowhere", "does not exist"});
  EXPECT_EQ(runs.verb({"train", "tune.yaml", "checkpoint.dir=d", "model={num_hidden_layers: 2}"}), 0)
      << runs.output;
}

// What a config says is known to be wrong before the model is there.
TEST_F(Verbs, WhatWouldFailLateFailsEarly) {
  std::ofstream(runs / "file") << "not a folder";
  expect_mistake({"train", "run.yaml", "log.dir=file/logs"}, 2, {"log.dir 'file/logs' cannot be written to"});
  expect_mistake({"train", "run.yaml", "checkpoint.dir=file/c"}, 1, {"file/c"});
  write_counting_file(runs / "short.h5", 2, 60);
  expect_mistake({"train", "run.yaml", "data.valid=[{path: short.h5}]"}, 1,
                 {"short.h5", "fewer than one window"});
}

TEST_F(Verbs, BenchPrintsJson) {
  ASSERT_EQ(runs.verb({"bench", "matmul", "--hidden-size", "64", "--threads", "1"}), 0) << runs.output;
  const auto result = nlohmann::json::parse(runs.output);
  EXPECT_GT(result.at("fp32_tflops").get<double>(), 0);
  EXPECT_GT(result.at("bf16_tflops").get<double>(), 0);
}

TEST_F(Verbs, BenchKernelsPrintsARowPerCase) {
  const Words words{"bench", "kernels", "--only=add,rope", "--milliseconds=0.1", "--rounds=1", "--threads=1"};
  ASSERT_EQ(runs.verb(words), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "\n"), 4) << runs.output;  // the device, a heading, two rows
  Words in_json = words;
  in_json.insert(in_json.end(), {"--json", "-"});
  ASSERT_EQ(runs.verb(in_json), 0) << runs.output;
  const auto first = nlohmann::json::parse(runs.output.substr(0, runs.output.find('\n')));
  EXPECT_EQ(first.at("slot"), "add");
  EXPECT_NEAR(first.at("share_of_copy").get<double>(),
              first.at("gb_per_s").get<double>() / first.at("copy_gb_per_s").get<double>(), 1e-9);
  expect_mistake({"bench", "kernels", "--only", "addd"}, 2, {"--only", "addd"});
}

TEST_F(Verbs, EveryVerbTeaches) {
  for (const Words& verb : std::vector<Words>{{"train"},
                                              {"launch"},
                                              {"tokenizer", "train"},
                                              {"tokenizer", "encode"},
                                              {"tokenizer", "decode"},
                                              {"data", "prepare"},
                                              {"data", "inspect"},
                                              {"data", "bigram"},
                                              {"config", "show"},
                                              {"config", "schema"},
                                              {"import"},
                                              {"publish"},
                                              {"logits"},
                                              {"eval"},
                                              {"generate"},
                                              {"checkpoint", "inspect"},
                                              {"bench", "tokenizer"},
                                              {"bench", "matmul"}}) {
    Words words = verb;
    words.push_back("--help");
    EXPECT_EQ(runs.verb(words), 0) << runs.output;
    EXPECT_NE(runs.output.find("Example"), std::string::npos) << runs.output;
  }
}

}  // namespace
}  // namespace tessera
