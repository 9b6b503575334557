// Requests to stop, two jobs in one directory, and the verb that starts ranks.

#include <gtest/gtest.h>

#include <csignal>

#include "tests/jobs/job.h"

namespace tessera {
namespace {

constexpr int saved = 75;
const Words endless{"train.steps=100000000", "checkpoint.every=100000000"};

class Signals : public testing::Test {
 protected:
  // Starts an endless run, sends the signal after a few steps, and holds what was saved to an undisturbed
  // run.
  void stop(const Words& command, const std::string& name, int number, int ranks) {
    Job job(command, {}, runs / "output");
    ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps(name) > 2; })) << job.output();
    job.signal(number);
    ASSERT_EQ(job.wait(15), saved) << job.output();
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
    const std::string state = runs.state(name);
    const std::string step = std::to_string(std::atoi(state.c_str()));
    ASSERT_EQ(runs.run(name + "_whole", ranks, {"train.steps=" + step}), 0) << runs.output;
    EXPECT_EQ(runs.state(name + "_whole"), state) << "stopped at step " << step;
  }
  Words launch(const std::string& name, int ranks) const {
    Words words = runs.command(name, 1, endless);
    words[1] = "launch";
    words.insert(words.end(), {"-n", std::to_string(ranks)});
    return words;
  }
  Runs runs;
};

TEST_F(Signals, Usr1AndTermSaveAndStopASingleProcess) {
  stop(runs.command("usr1", 1, endless), "usr1", SIGUSR1, 1);
  stop(runs.command("term", 1, endless), "term", SIGTERM, 1);
}

TEST_F(Signals, MpirunForwardsUsr1AndAllRanksSaveAtOneStep) {
  stop(runs.command("two", 2, endless), "two", SIGUSR1, 2);
  stop(runs.command("four", 4, endless), "four", SIGUSR1, 4);
}

TEST_F(Signals, LaunchTurnsTermAndIntIntoUsr1) {
  stop(launch("term", 2), "term", SIGTERM, 2);
  stop(launch("int", 2), "int", SIGINT, 2);
}

TEST_F(Signals, ASecondJobIsRefusedWhileTheFirstRuns) {
  Job job(runs.command("shared", 1, endless), {}, runs / "output");
  ASSERT_TRUE(eventually(20, [&] { return runs.logged_steps("shared") > 0; })) << job.output();
  EXPECT_EQ(runs.run("shared", 1), 1);
  EXPECT_NE(runs.output.find(std::to_string(job.pid())), std::string::npos) << runs.output;
  job.signal(SIGKILL);
  job.wait(15);
  EXPECT_EQ(runs.run("shared", 1), 0) << runs.output;  // the lock of a dead process does not bar the next
}

TEST_F(Signals, FreshRefusesADirectoryWithCheckpoints) {
  ASSERT_EQ(runs.run("run", 1), 0) << runs.output;
  EXPECT_EQ(runs.run("run", 1, {"--fresh"}), 2) << runs.output;
}

}  // namespace
}  // namespace tessera
