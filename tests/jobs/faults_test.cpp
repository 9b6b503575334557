// Jobs that are killed or lose their disk: what is on disk stays good, and the run goes on with the same
// bits.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "checkpoint/retention.h"
#include "tests/jobs/job.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr int killed = 128 + SIGKILL;

class Faults : public testing::Test {
 protected:
  Faults() : seed_(std::random_device{}()), random_(seed_) {
    RecordProperty("seed", static_cast<int>(seed_ >> 1));
    EXPECT_EQ(runs.run("whole", 1), 0) << runs.output;
    reference = runs.state("whole");
  }
  ~Faults() override {
    if (HasFailure()) std::printf("seed %u\n", seed_);
  }
  int draw(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }

  // Nothing but complete checkpoints and the lock.
  void expect_no_leftovers(const std::string& name) const {
    for (const auto& entry : fs::directory_iterator(runs / name)) {
      const std::string file = entry.path().filename();
      const bool checkpoint = file.rfind("step-", 0) == 0 && fs::exists(entry.path() / "manifest.json");
      EXPECT_TRUE(checkpoint || file[0] == '.' || file == "tessera.lock") << file;
    }
  }

  Runs runs;
  std::string reference;
  unsigned seed_;
  std::mt19937 random_;
};

// Rank 0 is killed while it writes its n-th line of metrics: at the end of step n − 2.
TEST_F(Faults, KilledAtARandomStepAndResumedOnAnyRanks) {
  for (const int ranks : {1, 2, 4}) {
    const std::string name = "killed" + std::to_string(ranks);
    const int at = draw(2, 7);
    EXPECT_NE(runs.run(name, ranks, {}, "write:" + std::to_string(at) + ":KILL:metrics.jsonl"), 0);
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
    EXPECT_LT(runs.logged_steps(name), 6);
    const int resumed = std::array{1, 2, 4}[static_cast<std::size_t>(draw(0, 2))];
    EXPECT_EQ(runs.run(name, resumed), 0) << runs.output;
    EXPECT_EQ(runs.state(name), reference)
        << ranks << " ranks killed at write " << at << ", resumed on " << resumed;
  }
}

// From a checkpoint of step 3, the save of step 6 and the removal of step 3 are cut at every operation.
TEST_F(Faults, KilledAtEveryOperationOfASave) {
  ASSERT_EQ(runs.run("base", 1, {"train.steps=3"}), 0) << runs.output;
  const std::string before = runs.state("base");
  for (const char* operation : {"open", "write", "fsync", "rename", "unlink"}) {
    int points = 0;
    for (int n = 1;; ++n) {
      fs::remove_all(runs / "cut");
      fs::copy(runs / "base", runs / "cut", fs::copy_options::recursive);
      const std::string fault = fmt::format("{}:{}:KILL:{}/step-", operation, n, (runs / "cut").string());
      const int code = runs.run("cut", 1, {}, fault);
      if (code == 0) break;  // the fault lay behind the end
      ASSERT_EQ(code, killed) << fault << "\n" << runs.output;
      ++points;
      const std::string left = runs.state("cut");
      EXPECT_TRUE(left == before || left == reference) << fault << ": no good checkpoint is left";
      if (n % 3 != 1) continue;  // what is left is one of two states; resuming from it is tried now and then
      ASSERT_EQ(runs.run("cut", 1), 0) << fault << "\n" << runs.output;
      EXPECT_EQ(runs.state("cut"), reference) << fault;
      expect_no_leftovers("cut");
    }
    EXPECT_GT(points, 0) << "a save has no " << operation;
  }
}

TEST_F(Faults, RanksKilledDuringASave) {
  for (const int ranks : {2, 4})
    for (const char* operation : {"write", "fsync", "rename"}) {
      const std::string name = fmt::format("{}{}", operation, ranks);
      // Of any shard, or of rank 0's manifest: whoever comes there first dies.
      const std::string fault = fmt::format("{}:{}:KILL:step-", operation, draw(1, 2));
      EXPECT_NE(runs.run(name, ranks, {}, fault), 0) << fault;
      EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); })) << fault;
      EXPECT_EQ(runs.run(name, ranks), 0) << fault << "\n" << runs.output;
      EXPECT_EQ(runs.state(name), reference) << fault;
      expect_no_leftovers(name);
    }
}

TEST_F(Faults, AFullDiskDuringASaveIsReportedAndTrainingGoesOn) {
  for (const int ranks : {1, 2})
    for (const char* operation : {"open", "write", "fsync", "rename"}) {
      const std::string name = fmt::format("full_{}{}", operation, ranks);
      const std::string fault = fmt::format("{}:1:ENOSPC:step-00000003", operation);
      EXPECT_EQ(runs.run(name, ranks, {}, fault), 0) << fault << "\n" << runs.output;
      EXPECT_EQ(count(runs.output, "no checkpoint of step 3"), 1) << runs.output;
      EXPECT_EQ(count(runs.output, "No space left on device"), 1) << runs.output;
      EXPECT_EQ(runs.state(name), reference) << fault;
      expect_no_leftovers(name);
    }
}

TEST_F(Faults, AFullDiskAtTheLastSaveFailsTheRunAndKeepsTheOlderCheckpoint) {
  EXPECT_EQ(runs.run("full", 2, {}, "write:1:ENOSPC:step-00000006"), 1) << runs.output;
  EXPECT_EQ(runs.state("full")[0], '3');
  expect_no_leftovers("full");
  EXPECT_EQ(runs.run("full", 2), 0) << runs.output;
  EXPECT_EQ(runs.state("full"), reference);
}

TEST_F(Faults, LogsNeverEndARun) {
  EXPECT_EQ(runs.run("logs", 1, {}, "write:3:EIO:logs_log"), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "training goes on without metrics.jsonl"), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "training goes on without TensorBoard events"), 1) << runs.output;
  EXPECT_EQ(runs.state("logs"), reference);
}

// Rank 1 alone cannot read its data: everybody is gone, and one line says why.
TEST_F(Faults, AFailingRankIsNamedOnce) {
  for (const int ranks : {2, 4}) {
    const std::string name = "failing" + std::to_string(ranks);
    Words all = runs.command(name, ranks);
    const auto program = std::find(all.begin(), all.end(), TESSERA_PROGRAM);
    const Words train(program, all.end());
    Words words(all.begin() + 3, program);  // mpirun's options without its -n N
    words.insert(words.begin(), "mpirun");
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank > 0) words.push_back(":");
      words.insert(words.end(), {"-n", "1", "env"});
      if (rank == 1) words.push_back("TESSERA_IO_FAULT=open:1:EIO:train.h5");
      words.insert(words.end(), train.begin(), train.end());
    }
    Job job(words, {}, runs / "output");
    EXPECT_EQ(job.wait(15), 1) << job.output();
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
    EXPECT_EQ(count(job.output(), "error: "), 1) << job.output();
    EXPECT_EQ(count(job.output(), "error: rank 1"), 1) << job.output();
    EXPECT_EQ(count(job.output(), "train.h5"), 1) << job.output();
  }
}

// Nodes with different files at one path: both are named before the first step.
TEST_F(Faults, RanksWithDifferentTokenFilesAreRefused) {
  const Words data{"data.train=[{path: train.h5}]"};
  Words all = runs.command("different", 2, data);
  const auto program = std::find(all.begin(), all.end(), TESSERA_PROGRAM);
  const Words train(program, all.end());
  Words words{"mpirun"};
  words.insert(words.end(), all.begin() + 3, program);  // its options without -n N
  for (const std::string place : {"here", "there"}) {
    fs::create_directory(runs / place);
    write_counting_file(runs / place / "train.h5", place == "here" ? 300 : 299, 60);
    if (place == "there") words.push_back(":");
    words.insert(words.end(), {"-n", "1", "-wdir", (runs / place).string()});
    words.insert(words.end(), train.begin(), train.end());
  }
  Job job(words, {}, runs / "output");
  EXPECT_EQ(job.wait(30), 1) << job.output();
  EXPECT_EQ(count(job.output(), "error: "), 1) << job.output();
  EXPECT_EQ(count(job.output(), "'train.h5' is not the same file on all ranks: rank 0 on "), 1)
      << job.output();
  EXPECT_EQ(runs.logged_steps("different"), 0);
}

// A token file that is rewritten, replaced or cut under a run ends it, naming the file; never other tokens,
// never a signal.
TEST_F(Faults, ATokenFileThatChangesDuringARunEndsIt) {
  const auto write_other = [](const fs::path& path) {  // as long as the run's own, of the same vocabulary
    TokenFileWriter writer(path, 60, std::nullopt, "{\"a tokenizer\": 1}");
    for (int d = 0; d < 300; ++d)
      writer.add(std::vector<std::uint32_t>(static_cast<std::size_t>(d * 7 % 13 + 1), 5), 1);
    writer.finish();
  };
  for (const std::string way : {"rewritten", "replaced", "cut"}) {
    const fs::path file = runs / (way + ".h5");
    const fs::path other = runs / (way + "_other.h5");
    fs::copy_file(runs / "train.h5", file);
    write_other(other);
    Job job(runs.command(way, 2,
                         {"data.train=[{path: " + file.string() + "}]", "train.steps=100000000",
                          "checkpoint.every=100000000"}),
            {}, runs / "output");
    ASSERT_TRUE(eventually(60, [&] { return runs.logged_steps(way) > 2; })) << job.output();
    if (way == "cut") fs::resize_file(file, fs::file_size(file) / 2);
    if (way == "replaced") fs::rename(other, file);
    if (way == "rewritten") {
      std::ifstream from(other, std::ios::binary);
      std::fstream(file, std::ios::in | std::ios::out | std::ios::binary) << from.rdbuf();
    }
    EXPECT_EQ(job.wait(60), 1) << way << job.output();
    EXPECT_GE(count(job.output(), "error: "), 1) << job.output();
    EXPECT_GE(count(job.output(), way + ".h5'"), 1) << job.output();
    EXPECT_GE(count(job.output(), "changed while it was read"), 1) << job.output();
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
  }
}

// Too few open files are a line that names the file and the limit; a soft limit is raised.
TEST_F(Faults, TooFewOpenFilesAreNamed) {
  std::string blend = "data.train=[";
  for (int i = 0; i < 30; ++i) {
    const fs::path file = runs / ("part" + std::to_string(i) + ".h5");
    fs::copy_file(runs / "train.h5", file);
    blend += (i > 0 ? ", {path: " : "{path: ") + file.string() + "}";
  }
  const auto limited = [&](const std::string& limit, Words words) {
    words.insert(words.begin(), {"prlimit", "--nofile=" + limit});
    Job job(words, {}, runs / "output");
    const int code = job.wait(60);
    runs.output = job.output();
    return code;
  };
  const Words train = runs.command("few", 1, {blend + "]"});
  EXPECT_EQ(limited("16:16", train), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "error: cannot read '"), 1) << runs.output;
  EXPECT_EQ(count(runs.output, ".h5': 16 files are open, and no more are allowed"), 1) << runs.output;
  EXPECT_EQ(limited("16:1000", train), 0) << runs.output;
  EXPECT_EQ(limited("20:20", {TESSERA_PROGRAM, "data", "bigram", runs / "train.h5", runs / "train.h5"}), 0)
      << runs.output;
  Words launch = runs.command("few_launched", 1);
  launch[1] = "launch";
  launch.insert(launch.begin() + 3, {"-n", "4"});
  EXPECT_EQ(limited("40:40", launch), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "error: mpirun with 4 ranks needs 48 open files"), 1) << runs.output;
  EXPECT_EQ(limited("48:48", launch), 0) << runs.output;
}

// A mistake that every rank meets is told once too.
TEST_F(Faults, AMistakeOfAllRanksIsToldOnce) {
  EXPECT_EQ(runs.run("mistake", 4, {"model.hidden_sise=3"}), 2) << runs.output;
  EXPECT_EQ(count(runs.output, "error: "), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "hidden_size"), 1) << runs.output;
}

TEST_F(Faults, AHangingRankEndsTheRunByTheWatchdog) {
  Job job(runs.command("hang", 2, {"train.steps=100000000", "checkpoint.every=100000000"}),
          {{"TESSERA_TIMEOUT", "1"}}, runs / "output");
  ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps("hang") > 2; })) << job.output();
  std::vector<pid_t> ranks;
  for (const pid_t pid : runs.processes())
    if (pid != job.pid()) ranks.push_back(pid);
  ASSERT_EQ(ranks.size(), 2U);
  kill(ranks.back(), SIGSTOP);
  EXPECT_EQ(job.wait(15), 124) << job.output();
  EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
  EXPECT_EQ(count(job.output(), "does not answer: it hangs or is gone"), 1) << job.output();
  EXPECT_EQ(count(job.output(), " waits in "), 1) << job.output();
}

}  // namespace
}  // namespace tessera
