// The command for mpirun and srun, hostfiles, and what becomes of signals and exit codes.
#include "launch/mpirun.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

LaunchRequest request(int ranks) {
  LaunchRequest out;
  out.ranks = ranks;
  out.program = {"/opt/tessera", "train", "my config.yaml", "train.steps=3"};
  return out;
}

fs::path hostfile(const std::string& text) {
  fs::path path = fs::path(testing::TempDir()) / ("hosts." + std::to_string(getpid()));
  std::ofstream(path) << text;
  return path;
}

TEST(Launch, CommandForThisMachine) {
  EXPECT_EQ(launch_command(request(2), {.cores = 2, .root = false}).text(),
            "mpirun -n 2 --bind-to none --mca mpi_yield_when_idle 1 /opt/tessera train 'my config.yaml' "
            "train.steps=3");
  EXPECT_EQ(
      launch_command(request(4), {.cores = 2, .root = true}).text(),
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 4 --oversubscribe --bind-to none "
      "--mca mpi_yield_when_idle 1 /opt/tessera train 'my config.yaml' train.steps=3");
}

TEST(Launch, CommandForSlurm) {
  LaunchRequest slurm = request(8);
  slurm.slurm = true;
  EXPECT_EQ(launch_command(slurm, {.cores = 2, .root = true}).text(),
            "srun --mpi=pmix -n 8 /opt/tessera train 'my config.yaml' train.steps=3");
}

TEST(Launch, HostfileSlotsDecideOversubscription) {
  LaunchRequest two = request(5);
  two.hostfile = hostfile("# nodes\nnode1 slots=4\n\nnode2   # one slot\n");
  EXPECT_EQ(hostfile_slots(two.hostfile), 5);
  EXPECT_EQ(launch_command(two, {.cores = 1, .root = false}).text().find("--oversubscribe"),
            std::string::npos);
  two.ranks = 6;
  EXPECT_NE(launch_command(two, {.cores = 64, .root = false}).text().find("--oversubscribe"),
            std::string::npos);
}

TEST(Launch, BadHostfilesNameTheLine) {
  for (const char* bad : {"node1 slots=x\n", "node1 slots=\n", "node1 slots=0\n", "node1 slots=-1\n",
                          "node1 4\n", "slots=4\n", "node1 slots=99999999999\n"}) {
    const fs::path path = hostfile(bad);
    try {
      hostfile_slots(path);
      FAIL() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      EXPECT_EQ(std::string(e.what()).find(path.string() + ":1: "), 0u) << e.what();
    }
  }
  EXPECT_THROW(hostfile_slots(hostfile("# none\n")), Error);
}

LaunchCommand shell(const std::string& script) {
  return {{{"TESSERA_SAID", "yes"}}, {"sh", "-c", script}};
}

TEST(Launch, ExitCodeAndEnvironmentComeThrough) {
  EXPECT_EQ(run_command(shell("exit 16")), 16);
  EXPECT_EQ(run_command(shell("test \"$TESSERA_SAID\" = yes")), 0);
  EXPECT_EQ(run_command(shell("kill -9 $$")), 128 + 9);
  EXPECT_THROW(run_command({{}, {"no-such-program-here"}}), Error);
}

// Runs the script, which makes `ready` when its traps are set, and sends the signals to ourselves.
int signalled(const std::string& script, const std::vector<int>& signals, bool mpirun = false) {
  const fs::path ready = fs::path(testing::TempDir()) / ("ready." + std::to_string(getpid()));
  fs::remove(ready);
  std::thread sender([&] {
    for (int i = 0; i < 500 && !fs::exists(ready); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    for (const int number : signals) {
      kill(getpid(), number);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
  });
  // Under mpirun rank 1 reports, once rank 0 has set its traps too.
  const std::string first = ready.string() + ".0";
  fs::remove(first);
  const std::string meet = "case ${OMPI_COMM_WORLD_RANK:-1} in 0) : > " + first +
                           "; sleep 5; exit 1;; esac; until [ -e " + first + " ]; do sleep 0.02; done; ";
  LaunchCommand command = shell(script + "; " + (mpirun ? meet : "") + ": > " + ready.string() +
                                "; for i in $(seq 100); do sleep 0.05; done");
  if (mpirun) {
    LaunchRequest ranks;
    ranks.ranks = 2;
    ranks.program = command.arguments;
    command = launch_command(ranks, this_machine());
  }
  const int code = run_command(command);
  sender.join();
  return code;
}

TEST(Launch, SignalsBecomeARequestToSave) {
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) {
    EXPECT_EQ(signalled("trap 'exit 75' USR1; trap 'exit 3' TERM INT", {number}), 75) << number;
  }
}

TEST(Launch, RanksUnderMpirunGetTheRequest) {
  EXPECT_EQ(signalled("trap 'exit 75' USR1", {SIGTERM}, true), 75);
}

TEST(Launch, ASecondRequestEndsIt) {
  EXPECT_EQ(signalled("trap '' USR1; trap 'exit 3' TERM", {SIGINT, SIGINT}), 3);
  EXPECT_EQ(signalled("trap '' USR1 TERM", {SIGINT, SIGINT, SIGINT}), 128 + SIGKILL);
}

}  // namespace
}  // namespace tessera
