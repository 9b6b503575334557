// Checkpoints under a job and the verbs that read them: a damaged one, a folder that is gone, a small disk.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint/retention.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "tests/jobs/job.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Checkpoints : public testing::Test {
 protected:
  std::vector<std::int64_t> steps(const std::string& name) const {
    std::vector<std::int64_t> all;
    for (const CheckpointEntry& entry : list_checkpoints(runs / name)) all.push_back(entry.step);
    return all;
  }
  void expect_said(int times, const std::string& words) const {
    EXPECT_EQ(count(runs.output, words), times) << runs.output;
  }
  Runs runs;
};

TEST_F(Checkpoints, EveryVerbSaysThatItTakesAnOlderOne) {
  ASSERT_EQ(runs.run("run", 1, {"checkpoint.keep=3"}), 0) << runs.output;
  fs::resize_file(runs / "run/step-00000006/shard-00000-of-00001.h5", 100);
  fs::create_directory(runs / "run/step-00000008");
  const std::string train_h5 = runs / "train.h5";
  ASSERT_EQ(runs.verb({"data", "inspect", "run.yaml", "--steps", "0:1", "--out", "tokens.safetensors"}), 0)
      << runs.output;
  for (const Words& verb :
       std::vector<Words>{{"publish", "run", "release"},
                          {"eval", "run", "--data", train_h5},
                          {"eval", "run", "--data", train_h5, "--seq-len", "16"},
                          {"generate", "run", "--prompt-ids", "1,2", "--max-tokens", "1"}}) {
    SCOPED_TRACE(verb[0]);
    EXPECT_EQ(runs.verb(verb), 0) << runs.output;
    expect_said(1, "step-00000006' is passed over: ");
    expect_said(1, "step-00000006/shard-00000-of-00001.h5' has 100 bytes");
    expect_said(1, "step-00000008' is passed over: it has no manifest.json");
  }
  EXPECT_EQ(runs.verb({"checkpoint", "inspect", "run"}), 1);
  expect_said(1, "step-00000006/shard-00000-of-00001.h5' has 100 bytes");
  expect_said(1, "step-00000008");
}

TEST_F(Checkpoints, AReleaseSaysWhichStepOfWhichRunItIs) {
  ASSERT_EQ(runs.run("run", 1), 0) << runs.output;
  ASSERT_EQ(runs.verb({"publish", "run", "release"}), 0) << runs.output;
  const auto json = nlohmann::json::parse(io::read_text(runs / "release/training.json"));
  EXPECT_EQ(json.at("run"), "run");
  EXPECT_EQ(json.at("step"), 6);
  const auto manifest = nlohmann::json::parse(io::read_text(runs / "run/step-00000006/manifest.json"));
  EXPECT_EQ(json.at("tokens"), manifest["checkpoint"]["meta"]["tokens"]);
  EXPECT_EQ(json.at("config_sha256").get<std::string>().size(), 64U);
  const std::string card = io::read_text(runs / "release/README.md");
  EXPECT_NE(card.find("to step 6 of run run, "), std::string::npos) << card;
  EXPECT_NE(card.find(json.at("config_sha256").get<std::string>()), std::string::npos) << card;
  const std::string sums = io::read_text(runs / "release/SHA256SUMS");
  EXPECT_NE(sums.find(sha256_hex_of_file(runs / "release/training.json") + "  training.json"),
            std::string::npos)
      << sums;
  // An import was trained elsewhere: nothing is claimed of it.
  ASSERT_EQ(runs.verb({"import", "release", "imported"}), 0) << runs.output;
  ASSERT_EQ(runs.verb({"publish", "imported", "again"}), 0) << runs.output;
  EXPECT_FALSE(fs::exists(runs / "again/training.json"));
}

TEST_F(Checkpoints, ALockIsWrittenInAsManyCallsAsItTakes) {
  for (const char* fault : {"write:1:SHORT", "write:1:EINTR", "open:1:EINTR"}) {
    const std::string name = std::string(fault, 5) + std::string(fault).substr(7);
    EXPECT_EQ(runs.run(name, 2, {}, fault + (":" + name + "/tessera.lock")), 0) << runs.output;
    EXPECT_EQ(runs.run(name + "_save", 2, {}, std::string(fault) + ":step-"), 0) << runs.output;
    EXPECT_EQ(steps(name + "_save").back(), 6);
  }
}

// The first job goes on in memory while its folder is removed and a second one trains in its place.
TEST_F(Checkpoints, AJobWhoseFolderIsAnothersEndsWithoutWritingThere) {
  const Words endless{"train.steps=100000000", "checkpoint.every=100000000"};
  Job first(runs.command("run", 2, endless), {}, runs / "first.output");
  ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps("run") > 2; })) << first.output();
  fs::remove_all(runs / "run");
  Words other = endless;
  other.push_back("log.dir=" + (runs / "other_log").string());
  Job second(runs.command("run", 1, other), {}, runs / "second.output");
  ASSERT_TRUE(eventually(20, [&] { return fs::exists(runs / "other_log/metrics.jsonl"); }))
      << second.output();
  first.signal(SIGUSR1);  // it would save
  EXPECT_EQ(first.wait(20), 1) << first.output();
  EXPECT_EQ(count(first.output(), "is no longer this job's"), 1) << first.output();
  EXPECT_EQ(steps("run").size(), 0U);
  second.signal(SIGUSR1);
  EXPECT_EQ(second.wait(20), 75) << second.output();
  EXPECT_EQ(steps("run").size(), 1U);
}

// A folder on a file system of its own, where this user may have one.
class SmallDisk {
 public:
  SmallDisk(const fs::path& at, std::uintmax_t bytes) : at_(at) {
    fs::create_directories(at);
    const std::string size = fmt::format("size={}", bytes);
    mounted_ = mount("tessera", at.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(at_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool is_mounted() const { return mounted_; }

 private:
  fs::path at_;
  bool mounted_ = false;
};

std::uintmax_t bytes_of_folder(const fs::path& folder) {
  std::uintmax_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    total += entry.is_regular_file() ? (entry.file_size() + 4095) / 4096 * 4096 : 4096;
  return total;
}

TEST_F(Checkpoints, ADiskWithRoomForTwoKeepsTheNewestOnes) {
  ASSERT_EQ(runs.run("whole", 1), 0) << runs.output;
  const std::string reference = runs.state("whole");
  const std::uintmax_t one = bytes_of_folder(runs / "whole");
  for (const int ranks : {1, 2})
    for (const char* keep : {"1", "2", "3"}) {
      const std::string name = fmt::format("small{}_{}", ranks, keep);
      const SmallDisk disk(runs / name, one * 5 / 2);
      if (!disk.is_mounted()) {  // then one that fills up for good: what is there stays, and training goes on
        EXPECT_EQ(runs.run(name, ranks, {"checkpoint.every=2"}, "write:1:ENOSPC:step-00000004"), 0)
            << runs.output;
        EXPECT_EQ(runs.state(name), reference);
        continue;
      }
      EXPECT_EQ(runs.run(name, ranks, {"checkpoint.every=1", std::string("checkpoint.keep=") + keep}), 0)
          << runs.output;
      EXPECT_EQ(steps(name),
                *keep == '1' ? std::vector<std::int64_t>({6}) : std::vector<std::int64_t>({5, 6}));
      EXPECT_EQ(runs.state(name), reference);
      expect_said(*keep == '1' ? 0 : 4, "was removed to make room");
      expect_said(0, "no checkpoint of step");
    }
}

TEST_F(Checkpoints, ADiskWithRoomForOneKeepsThatOne) {
  ASSERT_EQ(runs.run("whole", 1, {"train.steps=2", "checkpoint.every=2"}), 0) << runs.output;
  const std::string reference = runs.state("whole");
  for (const int ranks : {1, 2}) {
    const std::string name = fmt::format("one{}", ranks);
    const SmallDisk disk(runs / name, bytes_of_folder(runs / "whole") * 3 / 2);
    const std::string fault = disk.is_mounted() ? "" : "write:1:ENOSPC:step-00000004";
    EXPECT_EQ(runs.run(name, ranks, {"checkpoint.every=2", "checkpoint.keep=2", "train.steps=4"}, fault), 1)
        << runs.output;
    EXPECT_EQ(runs.logged_steps(name), 4) << "training went on";
    expect_said(1, "no checkpoint of step 4");
    EXPECT_EQ(runs.state(name), reference);
  }
}

}  // namespace
}  // namespace tessera
