// What Open MPI 4.1.4 and Slurm 22.05 print at the end of a job, and what is left of it. Texts as they came
// from mpirun.
#include "launch/notices.h"

#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

const std::string ruler = std::string(74, '-') + "\n";

const std::string primary = ruler +
                            "Primary job  terminated normally, but 1 process returned\n"
                            "a non-zero exit code. Per user-direction, the job has been aborted.\n" +
                            ruler;
std::string first_exit(int rank, int code) {
  return ruler +
         "mpirun detected that one or more processes exited with non-zero status, thus causing\n"
         "the job to be terminated. The first process to do so was:\n\n  Process name: [[16842,1]," +
         std::to_string(rank) + "]\n  Exit code:    " + std::to_string(code) + "\n" + ruler;
}
const std::string killed =
    ruler + "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).\n" + ruler;
const std::string crashed = ruler +
                            "mpirun noticed that process rank 3 with PID 7 on node gpu-07 exited on signal "
                            "11 (Segmentation fault).\n" +
                            ruler;
const std::string aborted = ruler +
                            "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n"
                            "with errorcode 2.\n\n"
                            "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"
                            "You may or may not see output from other processes, depending on\n"
                            "exactly when Open MPI kills them.\n" +
                            ruler;

// In pieces of so many bytes.
std::string shown(const std::string& text, std::size_t piece = 4096) {
  LaunchNotices notices;
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += piece)
    out += notices.pass(std::string_view(text).substr(at, piece));
  return out + notices.rest();
}

TEST(Notices, NothingFollowsAGoodStopOrATellingExit) {
  for (const std::size_t piece : {1UL, 7UL, 80UL, 4096UL}) {
    EXPECT_EQ(shown("info: asked to stop\n" + primary + first_exit(0, 75), piece), "info: asked to stop\n");
    EXPECT_EQ(shown("error: rank 1: no file\n" + aborted, piece), "error: rank 1: no file\n");
    EXPECT_EQ(shown("[vm:12687] 2 more processes have sent help message help-mpi-api.txt / mpi-abort\n"
                    "[vm:12687] Set MCA parameter \"orte_base_help_aggregate\" to 0 to see all help / error "
                    "messages\n",
                    piece),
              "");
    EXPECT_EQ(shown("srun: error: vm: tasks 0-1: Exited with exit code 75\n", piece), "");
  }
}

TEST(Notices, ARankThatASignalEndedIsNamedInOneLine) {
  for (const std::size_t piece : {1UL, 4096UL}) {
    EXPECT_EQ(shown(primary + killed, piece),
              "error: rank 1 on vm was ended by signal 9 (Killed): look into dmesg there, memory may have "
              "run out\n");
    EXPECT_EQ(shown(primary + crashed, piece),
              "error: rank 3 on gpu-07 was ended by signal 11 (Segmentation fault)\n");
  }
}

TEST(Notices, ACodeThatNoRankExplainsIsTold) {
  EXPECT_EQ(shown(primary + first_exit(2, 127)), "error: rank 2 ended with exit code 127\n");
}

TEST(Notices, AllElsePassesAsItCame) {
  for (const std::string text : {"step 1\rstep 2\r", "[1, 2, 3]\n", "[rank 0] more\n", "-- a list\n---\n",
                                 "srun: error: vm: task 1: Killed\n", "no newline at the end", "\n\n"})
    for (const std::size_t piece : {1UL, 4096UL}) EXPECT_EQ(shown(text, piece), text);
  const std::string no_slots =
      ruler + "There are not enough slots available in the system to satisfy the 4\n" + ruler;
  EXPECT_EQ(shown(no_slots), no_slots);
  const std::string endless = ruler + std::string(5000, 'x') + "\n" + std::string(600, '[') + "\n";
  EXPECT_EQ(shown(endless), endless);
}

// A line that is no notice is shown before its end has come.
TEST(Notices, ProgressIsShownAtOnce) {
  LaunchNotices notices;
  EXPECT_EQ(notices.pass("step 1"), "step 1");
  EXPECT_EQ(notices.pass("0\r"), "0\r");
}

}  // namespace
}  // namespace tessera
