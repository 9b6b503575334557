// Requests to stop at any moment, of a model whose products take long enough to be met by a signal: nothing
// is lost, and nothing else ends. tests/stops.sh does the same at length, under srun too.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "tests/jobs/job.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr int saved = 75;

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// Whether this process has blocked the signal, of /proc: it has begun, whatever it has come to.
bool blocks(pid_t pid, int number) {
  std::istringstream lines(text_of(fmt::format("/proc/{}/status", pid)));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("SigBlk:"))
      return (std::stoull(line.substr(8), nullptr, 16) >> (number - 1) & 1) != 0;
  return false;
}

class Stops : public testing::Test {
 protected:
  // The sizes of configs/demo.yaml; a save and a validation every few steps.
  Words command(const std::string& name, int ranks, bool launched) const {
    Words words = runs.command(
        name, launched ? 1 : ranks,
        {"model.family=llama", "model.hidden_size=256", "model.num_hidden_layers=6",
         "model.num_attention_heads=8", "model.num_key_value_heads=4", "model.head_dim=32",
         "model.intermediate_size=704", "model.vocab_size=8192", "data.seq_len=256",
         "data.valid=[{path: " + (runs / "train.h5").string() + "}]", "train.steps=100000000",
         "train.global_batch=4", "train.micro_batch=1", "checkpoint.every=4", "log.eval_every=3"});
    if (launched) {
      words[1] = "launch";
      words.insert(words.end(), {"-n", std::to_string(ranks)});
    }
    return words;
  }
  void expect_good_stop(Job& job, bool launched) const {
    ASSERT_EQ(job.wait(60), saved) << job.output();
    const std::string output = job.output();
    EXPECT_EQ(count(output, "run the same command again to resume"), 1) << output;
    if (launched) {
      EXPECT_EQ(count(output, "-----"), 0) << output;
    }
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
  }
  void wait(double seconds) const { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

  Runs runs;
};

TEST_F(Stops, AtRandomMomentsEndWithAGoodCheckpoint) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  std::printf("seed %u\n", seed);
  std::string before;
  for (int i = 0; i < 6; ++i) {
    const bool launched = i % 2 == 0;
    const int ranks = i < 4 ? 2 : 4;
    const int steps = runs.logged_steps("run");
    Job job(command("run", ranks, launched), {}, runs / "output");
    ASSERT_TRUE(eventually(60, [&] { return runs.logged_steps("run") > steps; })) << job.output();
    wait(std::uniform_real_distribution(0.0, 1.5)(random));
    for (int times = i % 3 == 0 ? 30 : 1; times > 0; --times) job.signal(launched ? SIGTERM : SIGUSR1);
    expect_good_stop(job, launched);
    if (HasFatalFailure()) return;
    const std::string state = runs.state("run");
    ASSERT_NE(state, "");
    EXPECT_NE(state, before);
    before = state;
  }
}

TEST_F(Stops, ARequestBeforeTheFirstStepIsKept) {
  for (const bool launched : {false, true})
    for (const double delay : {0.0, 0.05, 0.2}) {
      Job job(command("start", launched ? 2 : 1, launched), {}, runs / "output");
      ASSERT_TRUE(eventually(20, [&] { return blocks(job.pid(), SIGTERM); }));
      wait(delay);
      job.signal(SIGTERM);
      expect_good_stop(job, launched);
      if (HasFatalFailure()) return;
    }
}

// Threads, of one process: which all have the signals blocked.
TEST_F(Stops, ReachNoThreadOfARank) {
  Words words = command("threads", 1, false);
  words.insert(words.end(), {"--ranks", "2"});
  Job job(words, {}, runs / "output");
  ASSERT_TRUE(eventually(60, [&] { return runs.logged_steps("threads") > 0; })) << job.output();
  int threads = 0;
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", job.pid()))) {
    const auto thread = static_cast<pid_t>(std::stol(task.path().filename()));
    ++threads;
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, SIGPROF, SIGALRM, SIGVTALRM})
      EXPECT_TRUE(blocks(thread, number)) << number;
  }
  EXPECT_GE(threads, 2);
  job.signal(SIGINT);
  expect_good_stop(job, false);
}

// nohup's: what the process was started to ignore asks for nothing.
TEST_F(Stops, AnIgnoredSignalIsNoRequest) {
  Words words = runs.command("ignored", 1, {"train.steps=100000000", "checkpoint.every=100000000"});
  words.insert(words.begin(), {"env", "--ignore-signal=HUP"});
  Job job(words, {}, runs / "output");
  ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps("ignored") > 0; })) << job.output();
  job.signal(SIGHUP);
  const int steps = runs.logged_steps("ignored");
  ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps("ignored") > steps + 2; })) << job.output();
  job.signal(SIGTERM);
  expect_good_stop(job, false);
}

TEST_F(Stops, ACrashedRankEndsTheJobAndIsNamed) {
  for (const int number : {SIGSEGV, SIGKILL}) {
    Job job(command("crash", 2, true), {}, runs / "output");
    const int steps = runs.logged_steps("crash");
    ASSERT_TRUE(eventually(60, [&] { return runs.logged_steps("crash") > steps; })) << job.output();
    pid_t last = 0;
    for (const pid_t pid : runs.processes())
      if (text_of(fmt::format("/proc/{}/environ", pid)).find("OMPI_COMM_WORLD_RANK=1") != std::string::npos)
        last = pid;
    ASSERT_GT(last, 0);
    kill(last, number);
    EXPECT_EQ(job.wait(30), 128 + number) << job.output();
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
    const std::string output = job.output();
    EXPECT_EQ(count(output, "error: "), 1) << output;
    EXPECT_EQ(count(output, fmt::format("was ended by signal {}", number)), 1) << output;
    EXPECT_EQ(count(output, "-----"), 0) << output;
  }
}

// All of a job at once, as when a node's memory is short: the next one clears what it left in shared memory.
TEST_F(Stops, WhatAKilledJobLeftInSharedMemoryGoes) {
  Job job(command("killed", 2, false), {}, runs / "output");
  ASSERT_TRUE(eventually(60, [&] { return runs.logged_steps("killed") > 0; })) << job.output();
  const fs::path shared = fmt::format("/dev/shm/tessera.{}", geteuid());
  Words folders;
  const std::vector<pid_t> all = runs.processes();
  for (const auto& entry : fs::directory_iterator(shared))
    for (const pid_t pid : all)
      if (entry.path().filename().string().starts_with(fmt::format("{}.", pid))) {
        folders.push_back(entry.path());
        EXPECT_TRUE(fs::is_empty(entry.path())) << "a segment has a name while the job runs";
      }
  EXPECT_EQ(folders.size(), 2U);
  for (const pid_t pid : all) kill(pid, SIGKILL);
  job.wait(15);
  EXPECT_EQ(runs.run("after", 2), 0) << runs.output;
  for (const std::string& folder : folders) EXPECT_FALSE(fs::exists(folder)) << folder;
  EXPECT_EQ(count(runs.output, "unlink"), 0) << runs.output;
}

TEST_F(Stops, AFileLimitIsAFullDisk) {
  Words words = runs.command("limit", 1);
  words.insert(words.begin(), {"prlimit", "--fsize=40000"});
  Job job(words, {}, runs / "output");
  EXPECT_EQ(job.wait(60), 1) << job.output();  // the last save fails
  EXPECT_EQ(runs.logged_steps("limit"), 6);
  EXPECT_EQ(count(job.output(), "no checkpoint of step 3"), 1) << job.output();
  EXPECT_GE(count(job.output(), "ulimit -f"), 1) << job.output();
}

class Starts : public testing::Test {
 protected:
  int train(const Words& before, const std::map<std::string, std::string>& environment) {
    Words words = runs.command("start", 1);
    words.insert(words.begin(), before.begin(), before.end());
    Job job(words, environment, runs / "output");
    const int code = job.wait(60);
    output = job.output();
    return code;
  }
  Runs runs;
  std::string output;
};

TEST_F(Starts, TasksOfSrunWithoutPmixAreRefused) {
  EXPECT_EQ(train({}, {{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "0"}}), 2) << output;
  EXPECT_EQ(count(output, "--mpi=pmix"), 1) << output;
  EXPECT_EQ(train({}, {{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "3"}}), 2) << output;
  EXPECT_EQ(output, "");  // task 0 tells
  EXPECT_EQ(train({}, {{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}), 0)
      << output;
}

TEST_F(Starts, AnEnvironmentThatContradictsMpiIsRefused) {
  EXPECT_EQ(train({}, {{"PMI_SIZE", "4"}, {"PMI_RANK", "0"}}), 2) << output;
  EXPECT_EQ(count(output, "PMI_SIZE is '4', but MPI has 1 rank"), 1) << output;
  EXPECT_EQ(train({"mpirun", "-n", "2", "--oversubscribe", "-x", "PMI_SIZE=3"}, {}), 2) << output;
  EXPECT_EQ(count(output, "PMI_SIZE is '3', but MPI has 2 ranks"), 1) << output;
}

TEST_F(Starts, TheLineAboutBareMpirunStandsUnderBareMpirunOnly) {
  EXPECT_EQ(train({}, {}), 0) << output;
  EXPECT_EQ(count(output, "mpirun"), 0) << output;
  EXPECT_EQ(train({"mpirun", "-n", "2", "--oversubscribe"}, {}), 0) << output;
  EXPECT_EQ(count(output, "bare mpirun"), 1) << output;
  EXPECT_EQ(runs.verb({"launch", "run.yaml", "-n", "2", "checkpoint.dir=launched"}), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "bare mpirun"), 0) << runs.output;
}

TEST_F(Starts, LaunchTellsAMistakeBeforeItStartsRanks) {
  EXPECT_EQ(runs.verb({"launch", "run.yaml", "-n", "2", "data.train.0.path=none.h5"}), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "none.h5"), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "mpirun"), 0) << runs.output;
  EXPECT_EQ(runs.verb({"launch", "run.yaml", "-n", "3", "parallel.tp=2"}), 2) << runs.output;
  EXPECT_EQ(count(runs.output, "error: "), 1) << runs.output;
  EXPECT_EQ(count(runs.output, "mpirun"), 0) << runs.output;
}

TEST_F(Starts, LaunchSaysThatRanksTakeTurns) {
  std::ofstream(runs / "hosts") << "localhost slots=1\n";
  EXPECT_EQ(runs.verb({"launch", "run.yaml", "-n", "2", "--hostfile", "hosts"}), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "2 ranks on 1 slot: they take turns"), 1) << runs.output;
  EXPECT_EQ(runs.verb({"launch", "run.yaml", "-n", "1"}), 0) << runs.output;
  EXPECT_EQ(count(runs.output, "take turns"), 0) << runs.output;
}

}  // namespace
}  // namespace tessera
