// The command for mpirun and srun, hostfiles, and what becomes of signals, exit codes and notices.
#include "launch/mpirun.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/base/error.h"
#include "launch/signals.h"
#include "launch/supervise.h"

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
            "mpirun -n 2 --bind-to none --mca mpi_yield_when_idle 1 --mca opal_signal '' "
            "/opt/tessera train 'my config.yaml' train.steps=3");
  EXPECT_EQ(
      launch_command(request(4), {.cores = 2, .root = true}).text(),
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 4 --oversubscribe --bind-to none "
      "--mca mpi_yield_when_idle 1 --mca opal_signal '' /opt/tessera train 'my config.yaml' train.steps=3");
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

TEST(Launch, RanksBeyondCoresOrSlotsTakeTurns) {
  EXPECT_EQ(slots_for(request(4), {.cores = 2, .root = false}), 2);
  LaunchRequest hosts = request(4);
  hosts.hostfile = hostfile("node1 slots=3\n");
  EXPECT_EQ(slots_for(hosts, {.cores = 64, .root = false}), 3);
  LaunchRequest slurm = request(4);
  slurm.slurm = true;
  EXPECT_EQ(slots_for(slurm, {.cores = 1, .root = false}), 4);
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

// Runs the script, which makes `ready` when it is set up, and sends the signals to ourselves, where no thread
// takes them but run_command.
int signalled(const std::string& script, const std::vector<int>& signals, bool mpirun = false) {
  sigset_t sent;
  sigemptyset(&sent);
  for (const int number : signals) sigaddset(&sent, number);
  pthread_sigmask(SIG_BLOCK, &sent, nullptr);
  const fs::path ready = fs::path(testing::TempDir()) / ("ready." + std::to_string(getpid()));
  fs::remove(ready);
  std::thread sender([&] {
    for (int i = 0; i < 500 && !fs::exists(ready); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    for (const int number : signals) {
      kill(getpid(), number);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
  });
  LaunchCommand command = shell(": > " + ready.string() + "; " + script);
  if (mpirun) {
    LaunchRequest ranks;
    ranks.ranks = 2;
    ranks.program = command.arguments;
    command = launch_command(ranks, this_machine());
  }
  const int code = run_command(command);
  sender.join();
  constexpr timespec at_once{};
  while (sigtimedwait(&sent, nullptr, &at_once) > 0) {  // what came after the end
  }
  pthread_sigmask(SIG_UNBLOCK, &sent, nullptr);
  return code;
}

// Signals are for this process alone: they come as a line, which waits for who reads late.
TEST(Launch, SignalsBecomeALineOnStandardInput) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU}) {
    EXPECT_EQ(signalled("trap 'exit 3' TERM INT HUP USR1; read line; exit 75", {number}), 75) << number;
    EXPECT_EQ(signalled("sleep 0.3; read line && test \"$line\" = stop && exit 75", {number}), 75) << number;
  }
}

TEST(Launch, Rank0UnderMpirunGetsTheLine) {
  EXPECT_EQ(
      signalled("test $OMPI_COMM_WORLD_RANK = 1 && exec sleep 0.5; read line; exit 75", {SIGTERM}, true), 75);
}

TEST(Launch, FurtherRequestsChangeNothing) {
  const std::vector<int> thirty(30, SIGTERM);
  EXPECT_EQ(signalled("trap 'exit 3' TERM INT USR1; read line; sleep 1; exit 75", thirty), 75);
  EXPECT_EQ(
      signalled("read line; timeout 0.5 head -c 1 | grep -q . && exit 4; exit 75", {SIGINT, SIGINT, SIGINT}),
      75);
}

TEST(Launch, QuitEndsIt) {
  EXPECT_EQ(signalled("trap 'exit 3' TERM; for i in $(seq 100); do sleep 0.05; done", {SIGQUIT}), 3);
  EXPECT_EQ(signalled("trap '' TERM; for i in $(seq 100); do sleep 0.05; done", {SIGQUIT, SIGQUIT}),
            128 + SIGKILL);
}

// What the child prints of itself: signals that it was handed blocked or ignored, as masks of /proc.
TEST(Launch, TheCommandGetsAllSignals) {
  std::signal(SIGXFSZ, SIG_DFL);
  block_signals();
  EXPECT_EQ(run_command(shell("test $(($(sed -n 's/^SigBlk:\t/0x/p' /proc/self/status))) = 0")), 0);
  EXPECT_EQ(run_command(shell("test $((0x1000000 & $(sed -n 's/^SigIgn:\t/0x/p' /proc/self/status))) = 0")),
            0)
      << "SIGXFSZ is ignored";
  release_stop_signals();
}

}  // namespace
}  // namespace tessera
