// Layouts over real MPI processes.

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/jobs/job.h"

namespace tessera {
namespace {

class RealRanks : public testing::Test {
 protected:
  // The same run with thread ranks.
  int run_threads(const std::string& name, int ranks, const Words& overrides) {
    Words words = runs.command(name, 1, overrides);
    words.erase(words.begin());
    words.insert(words.end(), {"--ranks", std::to_string(ranks)});
    return runs.verb(words);
  }
  Runs runs;
};

// Sums have one order, so processes give the bits of threads.
TEST_F(RealRanks, HaveTheBitsOfThreadRanksUnderEveryAxis) {
  const std::vector<Words> layouts{
      {"parallel.tp=2", "parallel.pp=2", "parallel.schedule=zero_bubble"},
      {"parallel.tp=4"},
      {"parallel.cp=2", "parallel.tp=2", "parallel.zero=1"},
      {"parallel.cp=2", "parallel.context=ulysses", "parallel.zero=3"},
      {"parallel.pp=2", "parallel.schedule=interleaved", "parallel.zero=2"},
  };
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const std::string name = std::to_string(i);
    ASSERT_EQ(runs.run("processes" + name, 4, layouts[i]), 0) << runs.output;
    ASSERT_EQ(run_threads("threads" + name, 4, layouts[i]), 0) << runs.output;
    ASSERT_FALSE(runs.state("threads" + name).empty());
    EXPECT_EQ(runs.state("processes" + name), runs.state("threads" + name)) << layouts[i][0];
  }
}

// One byte more at its end makes another program of the same code.
TEST_F(RealRanks, OfAnotherBuildAreRefusedNamingBoth) {
  namespace fs = std::filesystem;
  const fs::path other = runs / "other_tessera";
  fs::copy_file(TESSERA_PROGRAM, other);
  std::ofstream(other, std::ios::app | std::ios::binary) << '\0';
  Words words = runs.command("mixed", 2);
  words[2] = "1";
  const Words second(std::find(words.begin(), words.end(), TESSERA_PROGRAM), words.end());
  words.insert(words.end(), {":", "-n", "1", other.string()});
  words.insert(words.end(), second.begin() + 1, second.end());
  Job job(words, {}, runs / "output");
  EXPECT_EQ(job.wait(30), 2) << job.output();
  EXPECT_NE(job.output().find("rank 0 runs tessera"), std::string::npos) << job.output();
  EXPECT_EQ(count(job.output(), "(build "), 2) << job.output();
}

// A rank of a pipeline dies somewhere in a step: all go, and the run goes on under another layout.
TEST_F(RealRanks, AllGoWhenOneOfAPipelineDies) {
  const Words layout{"parallel.pp=2", "parallel.tp=2", "parallel.schedule=interleaved"};
  Words endless = layout;
  endless.insert(endless.end(), {"train.steps=1000000", "checkpoint.every=3"});
  Job job(runs.command("dies", 4, endless), {}, runs / "output");
  ASSERT_TRUE(eventually(30, [&] { return runs.logged_steps("dies") > 4; })) << job.output();
  std::vector<pid_t> ranks;
  for (const pid_t pid : runs.processes())
    if (pid != job.pid()) ranks.push_back(pid);
  ASSERT_EQ(ranks.size(), 4U);
  kill(ranks[std::random_device{}() % 4], SIGKILL);
  EXPECT_NE(job.wait(15), -1) << job.output();
  EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
  const int done = runs.logged_steps("dies");
  EXPECT_EQ(runs.run("dies", 2, {"parallel.tp=2", "train.steps=" + std::to_string(done + 6)}), 0)
      << runs.output;
}

}  // namespace
}  // namespace tessera
