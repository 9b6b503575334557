// What a run's data is: known by content when it resumes, over its ranks, and beside a model's tokenizer.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "core/base/io.h"
#include "core/base/new_file.h"
#include "launch/data_identity.h"
#include "launch/trainer.h"
#include "parallel/comm/local.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

class TrainingData : public testing::Test {
 protected:
  TrainingData() {
    write_counting_file(path("a.h5"), 300, 60);
    write_counting_file(path("b.h5"), 200, 60);
  }
  std::string path(const std::string& name) const { return folder / name; }

  // Documents of `length` tokens each, of a tokenizer that says `tokenizer`.
  void write_tokens(const std::string& name, int documents, int length, const std::string& tokenizer) const {
    TokenFileWriter writer(path(name), 60, std::nullopt, tokenizer);
    for (int d = 0; d < documents; ++d)
      writer.add(
          std::vector<std::uint32_t>(static_cast<std::size_t>(length), static_cast<std::uint32_t>(d % 60)),
          1);
    writer.finish();
  }

  void train(const std::string& name, std::int64_t steps, const std::string& sources,
             const std::vector<std::string>& overrides = {}) const {
    const std::string text = fmt::format(
        "model: {{family: qwen3, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
        "num_key_value_heads: 1, head_dim: 8, intermediate_size: 24, tie_word_embeddings: true}}\n"
        "data: {{train: [{}], seq_len: 16}}\n"
        "train: {{steps: {}, global_batch: 8, micro_batch: 2, threads: 1}}\n"
        "optimizer: {{lr: 1e-2}}\n"
        "schedule: {{name: constant}}\n"
        "checkpoint: {{dir: {}, every: 3, keep: 2}}\n"
        "log: {{dir: {}, every: 100}}\n",
        sources, steps, path(name), path(name + "_log"));
    const Config config = parse_config(text, "test", overrides);
    run_local_ranks(1, [&](ProcessGroup& group) {
      Trainer trainer(config, group, {});
      EXPECT_EQ(trainer.run(), ExitCode::ok);
    });
  }
  std::string source(const std::string& name, double weight = 1) const {
    return fmt::format("{{path: {}, weight: {}}}", path(name), weight);
  }
  // The run's refusal with all these words.
  template <class Run>
  void expect_refused(ExitCode code, const std::vector<std::string>& words, Run run) const {
    try {
      run();
      ADD_FAILURE() << "not refused: " << words[0];
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      for (const std::string& word : words)
        EXPECT_PRED_FORMAT2(testing::IsSubstring, word, std::string(e.what()));
    }
  }
  std::vector<float> weights(const std::string& name) const {
    const LoadedCheckpoint checkpoint = open_checkpoint(path(name), true);
    std::vector<float> all{static_cast<float>(checkpoint.step())};
    for (const TensorInfo& info : checkpoint.tensors()) {
      std::vector<float> values(static_cast<std::size_t>(elements(info.shape)));
      checkpoint.read_whole(info.name, info.state, values.data());
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  // Lets `change` edit what the newest checkpoint says of its data.
  template <class Change>
  void edit(const std::string& name, Change change) const {
    const std::filesystem::path file = open_checkpoint(path(name)).path() / manifest_name;
    Manifest manifest = parse_manifest(io::read_text(file), file.string());
    Json meta = *manifest.meta;
    change(meta.at("data"));
    manifest.meta = std::make_shared<const Json>(meta);
    io::write_atomically(file, manifest_text(manifest));
  }

  TemporaryFolder folder;
};

TEST_F(TrainingData, ResumesByContentWhereverItLies) {
  const std::string blend = source("a.h5", 3) + ", " + source("b.h5");
  train("whole", 6, blend);
  train("moved", 3, blend);
  std::filesystem::create_directory(folder / "elsewhere");
  std::filesystem::rename(path("a.h5"), path("elsewhere/c.h5"));
  train("moved", 6, source("elsewhere/c.h5", 3) + ", " + source("b.h5"));
  EXPECT_EQ(weights("moved"), weights("whole"));
}

TEST_F(TrainingData, RefusesOtherTokensAtThePathsOfARun) {
  train("run", 3, source("a.h5") + ", " + source("b.h5"));
  write_counting_file(path("b.h5"), 201, 60);
  expect_refused(ExitCode::usage, {"b.h5", "source 1", "other tokens", "1388 tokens"},
                 [&] { train("run", 6, source("a.h5") + ", " + source("b.h5")); });
  write_counting_file(path("b.h5"), 200, 60);
  expect_refused(ExitCode::usage, {"data.train"},
                 [&] { train("run", 6, source("a.h5") + ", " + source("b.h5", 2)); });
  expect_refused(ExitCode::usage, {"data.train"}, [&] { train("run", 6, source("a.h5")); });
  expect_refused(ExitCode::usage, {"a.h5", "source 0"},
                 [&] { train("run", 6, source("b.h5") + ", " + source("a.h5")); });
  train("run", 6, source("a.h5") + ", " + source("b.h5"));
}

TEST_F(TrainingData, RefusesAnotherOrderOfTheBlend) {
  train("run", 3, source("a.h5") + ", " + source("b.h5"));
  edit("run", [](Json& data) {
    EXPECT_EQ(data.at("source_samples")[0].get<int>() + data.at("source_samples")[1].get<int>(), 24);
    data.at("source_samples")[0] = data.at("source_samples")[0].get<int>() + 1;
  });
  expect_refused(ExitCode::usage, {"a.h5", "first 24 samples"},
                 [&] { train("run", 6, source("a.h5") + ", " + source("b.h5")); });
}

// Checkpoints of versions that did not record contents know their files by path.
TEST_F(TrainingData, OlderCheckpointsResume) {
  train("whole", 6, source("a.h5"));
  train("old", 3, source("a.h5"));
  edit("old", [](Json& data) { data.erase("sources"); });
  std::filesystem::copy_file(path("a.h5"), path("c.h5"));
  expect_refused(ExitCode::usage, {"data.train"}, [&] { train("old", 6, source("c.h5")); });
  train("old", 6, source("a.h5"));
  EXPECT_EQ(weights("old"), weights("whole"));
}

TEST_F(TrainingData, RanksMustReadTheSameFiles) {
  const char* names[] = {"a.h5", "a.h5", "b.h5"};
  for (const int ranks : {2, 3}) {
    int refused = 0;
    run_local_ranks(ranks, [&](ProcessGroup& group) {
      const TokenFile file(path(names[group.rank()]));
      const TokenFile* const files[] = {&file};
      try {
        require_same_files(files, group);
      } catch (const Error& e) {
        if (group.rank() > 0) return;  // all ranks say the same, but for the name of a rank's own file
        EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.h5' is not the same file on all ranks",
                            std::string(e.what()));
        EXPECT_PRED_FORMAT2(testing::IsSubstring, "rank 0 on ", std::string(e.what()));
        EXPECT_PRED_FORMAT2(testing::IsSubstring, "rank 2 on ", std::string(e.what()));
        ++refused;
      }
    });
    EXPECT_EQ(refused, ranks == 3 ? 1 : 0);
  }
}

TEST_F(TrainingData, FilesShorterThanAWindowAreNamedAtTheStart) {
  write_tokens("short.h5", 1, 16, "{\"a tokenizer\": 1}");
  for (const char* key : {"data.train", "data.valid"})
    expect_refused(ExitCode::failure, {"short.h5", "16 tokens", "seq_len 16"}, [&] {
      train("run", 3, source("a.h5"), {fmt::format("{}=[{{path: {}}}]", key, path("short.h5"))});
    });
  EXPECT_FALSE(std::filesystem::exists(folder / "run_log/metrics.jsonl"));
}

TEST_F(TrainingData, OfAnotherTokenizerDoesNotGoOnFromAModel) {
  train("model", 3, source("a.h5"));
  const std::string from = "init.from=" + path("model");
  write_tokens("same.h5", 40, 10, "{ \"a tokenizer\":1 }");  // written out again
  train("tuned", 3, source("same.h5"), {from});
  write_tokens("other.h5", 40, 10, "{\"another tokenizer\": 1}");
  expect_refused(ExitCode::usage, {"init.from", "other.h5", "model", "another tokenizer"},
                 [&] { train("refused", 3, source("other.h5"), {from}); });
  write_tokens("none.h5", 40, 10, "");
  train("unknown", 3, source("none.h5"), {from});
}

}  // namespace
}  // namespace tessera
