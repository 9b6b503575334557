// A small model to train on thread ranks, and what is left of its runs.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "launch/trainer.h"
#include "parallel/comm/local.h"
#include "tests/data/temporary.h"

namespace tessera {

class Training : public testing::Test {
 protected:
  Training() { write_counting_file(folder / "train.h5", 300, 60); }

  Config config(const std::string& name, const std::vector<std::string>& overrides) const {
    std::string text =
        "model: {family: qwen3, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
        "num_key_value_heads: 2, "
        "head_dim: 8, intermediate_size: 40, tie_word_embeddings: true}\n"
        "data: {train: [{path: TRAIN}], seq_len: 16, document_mask: true}\n"
        "train: {steps: 6, global_batch: 8, micro_batch: 2, threads: 1}\n"
        "optimizer: {lr: 1e-2}\n"
        "schedule: {name: constant, warmup: 2}\n"
        "parallel: {reduce_groups: 4}\n"
        "checkpoint: {dir: CHECKPOINTS, every: 3, keep: 2}\n"
        "log: {dir: LOGS, every: 100}\n";
    text.replace(text.find("TRAIN"), 5, (folder / "train.h5").string());
    text.replace(text.find("CHECKPOINTS"), 11, (folder / name).string());
    text.replace(text.find("LOGS"), 4, (folder / (name + "_log")).string());
    return parse_config(text, "test", overrides);
  }

  void train(const std::string& name, int ranks, const std::vector<std::string>& overrides = {},
             ExitCode expected = ExitCode::ok) const {
    const Config chosen = config(name, overrides);
    run_local_ranks(ranks, [&](ProcessGroup& group) {
      Trainer trainer(chosen, group, {});
      EXPECT_EQ(trainer.run(), expected);
    });
  }

  // The step, then all weights and moments of the newest checkpoint, or one kind of them.
  std::vector<float> state(const std::string& name, const std::string& kind = "") const {
    const LoadedCheckpoint checkpoint = open_checkpoint(folder / name, true);
    std::map<std::string, std::vector<float>> tensors;
    for (const TensorInfo& info : checkpoint.tensors()) {
      if (!kind.empty() && info.state != kind) continue;
      std::vector<float>& values = tensors[info.name + info.state];
      values.resize(static_cast<std::size_t>(elements(info.shape)));
      checkpoint.read_whole(info.name, info.state, values.data());
    }
    std::vector<float> all{static_cast<float>(checkpoint.step())};
    for (const auto& [key, values] : tensors) all.insert(all.end(), values.begin(), values.end());
    return all;
  }

  TemporaryFolder folder;
};

inline void damage(const std::filesystem::path& checkpoint) {
  for (const auto& file : std::filesystem::directory_iterator(checkpoint))
    if (file.path().extension() == ".h5") {
      std::fstream shard(file.path(), std::ios::in | std::ios::out | std::ios::binary);
      shard.seekp(20000);
      shard.put('\x55');
    }
}

}  // namespace tessera
