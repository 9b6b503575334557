// Releases: what is read, written and refused, on tiny models with random weights.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/import.h"
#include "checkpoint/model_source.h"
#include "checkpoint/publish.h"
#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/new_file.h"
#include "core/base/philox.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_text = R"({
  "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "float32", "vocab_size": 64,
  "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 48, "tie_word_embeddings": false,
  "rope_theta": 10000.0, "own": "kept", "eos_token_id": 3})";

class Release : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::temp_directory_path() / fmt::format("tessera-release-{}-{}", info->name(), ::getpid());
    fs::remove_all(root_);
    fs::create_directories(root_ / "in");
    device_ = make_device(DeviceKind::cpu, {0, 1});
    const ReleaseConfig config = read_release_config(parse_json(config_text, "config"), "config");
    for (const LogicalTensor& tensor : logical_tensors(config.spec))
      tensors_.push_back({*release_name(*config.family, tensor.name), DType::f32, tensor.shape});
    write(config_text, tensors_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A release whose tensors hold numbers of their own.
  void write(const std::string& config, const std::vector<SafetensorsTensor>& tensors) {
    io::write_atomically(root_ / "in/config.json", config);
    SafetensorsWriter writer(root_ / "in/model.safetensors", tensors);
    for (const SafetensorsTensor& tensor : writer.tensors()) {
      std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
      fill_normal(values, Key(5, tensor.name), 0.3F, device_->threads());
      writer.write_floats(tensor.name, 0, values);
    }
    writer.finish();
  }
  static std::string message(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  std::string defect() {
    return message([&] { open_release(root_ / "in"); });
  }
  Published publish_to(const std::string& name, PublishOptions options = {}) {
    options.to = root_ / name;
    return publish(open_release(root_ / "in"), options, *device_);
  }
  std::map<std::string, std::string> contents(const std::string& name) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(root_ / name))
      files[entry.path().filename().string()] = io::read_text(entry.path());
    return files;
  }

  fs::path root_;
  std::unique_ptr<Device> device_;
  std::vector<SafetensorsTensor> tensors_;
};

#define EXPECT_SAYS(part, action) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, action)

TEST_F(Release, RefusesMissingUnknownAndMisshapenTensors) {
  EXPECT_EQ(defect(), "no error");
  auto changed = tensors_;
  changed.erase(changed.begin() + 3);
  write(config_text, changed);
  EXPECT_SAYS("'" + tensors_[3].name + "' is missing", defect());
  changed = tensors_;
  changed.push_back({"model.layers.0.self_attn.q_proj.lora", DType::f32, {1}});
  write(config_text, changed);
  EXPECT_SAYS("lora' belongs to no part", defect());
  changed = tensors_;
  changed[0].shape[0] = 65;  // vocab ≠ embedding
  write(config_text, changed);
  EXPECT_SAYS("has shape [65, 32]; config.json asks for [64, 32]", defect());
  changed = tensors_;
  changed[0].dtype = DType::i32;
  io::remove_file(root_ / "in/model.safetensors");
  {
    SafetensorsWriter writer(root_ / "in/model.safetensors", changed);
    for (const SafetensorsTensor& tensor : writer.tensors())
      writer.write(tensor.name, 0, std::vector<std::byte>(tensor.end - tensor.begin));
    writer.finish();
  }
  EXPECT_SAYS("is I32; F32, BF16 or F16", defect());
}

TEST_F(Release, HoldsTheTieFlagAgainstTheTensors) {
  std::string tied = config_text;
  tied.replace(tied.find("\"tie_word_embeddings\": false"), 28, "\"tie_word_embeddings\": true");
  write(tied, tensors_);
  EXPECT_SAYS("'lm_head.weight' differs", defect());
  auto without = tensors_;
  std::erase_if(without, [](const auto& tensor) { return tensor.name == "lm_head.weight"; });
  write(tied, without);
  EXPECT_EQ(defect(), "no error");
  write(config_text, without);
  EXPECT_SAYS("tie_word_embeddings: true", defect());
}

TEST_F(Release, PublishesTheSameBytesTwiceAndCarriesTheRest) {
  io::write_atomically(root_ / "in/chat_template.jinja", "{{ loops }}");
  io::write_atomically(root_ / "in/README.md", "---\nlicense: apache-2.0\n---\ntext\n");
  const Published one = publish_to("one");
  EXPECT_EQ(one.shards, 1);
  publish_to("two");
  const auto files = contents("one");
  EXPECT_EQ(files, contents("two"));
  EXPECT_EQ(files.at("chat_template.jinja"), "{{ loops }}");
  EXPECT_SAYS("\"own\": \"kept\"", files.at("config.json"));
  EXPECT_SAYS("license: apache-2.0", files.at("README.md"));
  EXPECT_SAYS("  model.safetensors", files.at("SHA256SUMS"));
  EXPECT_SAYS("\"eos_token_id\": 3", files.at("generation_config.json"));
  EXPECT_FALSE(fs::exists(root_ / "one.tmp"));
}

TEST_F(Release, PublishesShardsAndOtherDtypes) {
  PublishOptions options;
  options.max_shard_bytes = 8000;
  options.dtype = DType::bf16;
  EXPECT_GT(publish_to("out", options).shards, 2);
  const ModelSource back = open_release(root_ / "out");
  EXPECT_EQ(back.description().dtype, DType::bf16);
  const LogicalTensor embedding{"embedding.weight", {64, 32}};
  std::vector<float> rounded(64);
  std::vector<float> exact(64);
  back.read(embedding, 3, 2, rounded);
  open_release(root_ / "in").read(embedding, 3, 2, exact);
  for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(rounded[i], static_cast<float>(bf16(exact[i])));
}

TEST_F(Release, LeavesNothingWhereItRefuses) {
  fs::create_directories(root_ / "full/x");
  EXPECT_SAYS("already holds something", message([&] { publish_to("full"); }));
  // f16 cannot hold this weight.
  {
    SafetensorsWriter writer(root_ / "in/model.safetensors", tensors_);
    for (const SafetensorsTensor& tensor : writer.tensors())
      writer.write_floats(tensor.name, 0, std::vector<float>(static_cast<std::size_t>(tensor.numel()), 1e6F));
    writer.finish();
  }
  PublishOptions options;
  options.dtype = DType::f16;
  EXPECT_SAYS("not finite", message([&] { publish_to("out", options); }));
  EXPECT_FALSE(fs::exists(root_ / "out"));
  EXPECT_FALSE(fs::exists(root_ / "out.tmp"));
}

TEST_F(Release, ReadsNoFileThroughALinkOutOfTheDirectory) {
  fs::create_directories(root_ / "elsewhere");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"})
    io::write_atomically(root_ / "in" / name, "{}");
  EXPECT_EQ(defect(), "no error");
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                           "generation_config.json", "LICENSE"}) {
    const fs::path here = root_ / "in" / name;
    const fs::path there = root_ / "elsewhere" / name;
    fs::rename(here, there);
    fs::create_symlink(there, here);
    EXPECT_SAYS("link out of the directory", defect()) << name;
    fs::remove(here);
    fs::create_symlink(root_ / "nowhere", here);
    EXPECT_SAYS("cannot be followed", defect()) << name;
    fs::remove(here);
    fs::rename(there, here);
  }
  fs::rename(root_ / "in/LICENSE", root_ / "in/own");
  fs::create_symlink("own", root_ / "in/LICENSE");  // within the directory
  EXPECT_EQ(defect(), "no error");
}

TEST_F(Release, ReadsTheHubsCache) {
  const fs::path hub = root_ / "models--a--b";
  fs::create_directories(hub / "blobs");
  fs::create_directories(hub / "snapshots/0123");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::rename(root_ / "in" / name, hub / "blobs" / ("hash-of-" + std::string(name)));
    fs::create_symlink("../../blobs/hash-of-" + std::string(name), hub / "snapshots/0123" / name);
  }
  EXPECT_EQ(message([&] { open_release(hub / "snapshots/0123"); }), "no error");
}

TEST_F(Release, SaysWhatIsNoFile) {
  ASSERT_EQ(::mkfifo((root_ / "in/tokenizer.json").c_str(), 0600), 0);
  EXPECT_SAYS("not a regular file", defect());
  fs::remove(root_ / "in/tokenizer.json");
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n";
  for (const char* name : {"tokenizer.json", "merges.txt", "model.safetensors", "config.json"}) {
    const std::string before = fs::exists(root_ / "in" / name) ? io::read_text(root_ / "in" / name) : "";
    io::write_atomically(root_ / "in" / name, pointer);
    EXPECT_SAYS("Git LFS pointer", defect()) << name;
    if (before.empty())
      fs::remove(root_ / "in" / name);
    else
      io::write_atomically(root_ / "in" / name, before);
  }
  io::write_atomically(root_ / "in/config.json", config_text + std::string(1, '\0'));
  EXPECT_SAYS("NUL", defect());
}

TEST_F(Release, ImportLooksAtEveryFile) {
  const auto import = [&](ImportOptions options = {}) {
    fs::remove_all(root_ / "checkpoint");
    return message([&] { import_release(open_release(root_ / "in"), root_ / "checkpoint", options); });
  };
  EXPECT_EQ(import(), "no error");
  for (const char* name : {"tokenizer.json", "generation_config.json"}) {
    for (const std::string& text : {std::string(), std::string("{"), std::string("{}\0", 3)}) {
      io::write_atomically(root_ / "in" / name, text);
      EXPECT_SAYS("invalid JSON", import()) << name << " " << text;
      EXPECT_FALSE(fs::exists(root_ / "checkpoint"));
    }
    fs::remove(root_ / "in" / name);
  }
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    {
      SafetensorsWriter writer(root_ / "in/model.safetensors", tensors_);
      for (const SafetensorsTensor& tensor : writer.tensors()) {
        std::vector<float> values(static_cast<std::size_t>(tensor.numel()), 0.5F);
        if (tensor.name == "model.embed_tokens.weight") values[5 * 32 + 7] = bad;
        writer.write_floats(tensor.name, 0, values);
      }
      writer.finish();
    }
    EXPECT_SAYS("'model.embed_tokens.weight' is", import());
    EXPECT_SAYS("at [5, 7]", import());
    EXPECT_FALSE(fs::exists(root_ / "checkpoint"));
    EXPECT_EQ(import({.allow_nonfinite = true}), "no error");
  }
}

}  // namespace
}  // namespace tessera
