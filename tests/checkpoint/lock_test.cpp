// Who holds a directory: dead processes, other hosts, requeued jobs, and folders that were removed meanwhile.

#include "checkpoint/lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "core/base/error.h"
#include "core/base/io.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Lock : public testing::Test {
 protected:
  Lock() { as_job("", ""); }
  ~Lock() override { as_job("", ""); }
  // This process as a start of a Slurm job.
  static void as_job(const std::string& id, const std::string& restarts) {
    for (const auto& [name, value] : {std::pair{"SLURM_JOB_ID", id}, {"SLURM_RESTART_COUNT", restarts}})
      value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
  }
  void leave(const std::string& holder) const { std::ofstream(file) << holder << "\n"; }
  static std::string refusal(const std::function<void()>& work) {
    try {
      work();
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  std::string refused() const {
    return refusal([&] { const DirectoryLock lock(dir); });
  }

  TemporaryFolder folder;
  fs::path dir = folder / "run", file = dir / "tessera.lock";
};

TEST_F(Lock, NamesItsHolderAndOutlivesNoProcess) {
  {
    const DirectoryLock lock(dir);
    const std::string cause = refused();
    EXPECT_NE(cause.find("process " + std::to_string(getpid())), std::string::npos) << cause;
  }
  EXPECT_FALSE(fs::exists(file));
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  leave(std::string("host ") + host.data() + " process 1 since long ago");
  EXPECT_EQ(refused(), "");
}

TEST_F(Lock, OfAnotherHostSaysHowToKnowThatItIsGone) {
  fs::create_directory(dir);
  leave("host elsewhere process 5 since long ago");
  EXPECT_NE(refused().find("if `ps -p 5` on elsewhere no longer shows it remove '" + file.string() + "'"),
            std::string::npos)
      << refused();
  leave("host elsewhere process 5 since long ago Slurm job 77 restart 0");
  EXPECT_NE(refused().find("if `squeue -j 77` no longer shows it remove"), std::string::npos) << refused();
}

// A node failed, and Slurm started the job again on another one: it has ended the first start.
TEST_F(Lock, OfAnEarlierStartOfThisJobIsTakenOverFromAnyHost) {
  fs::create_directory(dir);
  const std::string first = "host elsewhere process 5 since long ago Slurm job 77 restart 0";
  const auto left = [&](const std::string& holder) {
    leave(holder);
    return refused();
  };
  as_job("77", "1");
  EXPECT_EQ(left(first), "");
  EXPECT_EQ(left("host elsewhere process 5 since long ago Slurm job 77"), "") << "before counts were written";
  EXPECT_NE(left("host elsewhere process 5 since long ago Slurm job 77 restart 1"), "")
      << "a step beside this";
  EXPECT_NE(left("host elsewhere process 5 since long ago Slurm job 77 restart 2"), "");
  EXPECT_NE(left("host elsewhere process 5 since long ago Slurm job 7 restart 0"), "");
  as_job("77", "");  // never requeued
  EXPECT_NE(left(first), "");
  as_job("78", "1");
  EXPECT_NE(left(first), "");
}

// Slurm may be wrong about a node that only lost its network: the earlier start notices.
TEST_F(Lock, AnEarlierStartThatLivesOnNotices) {
  as_job("77", "");
  std::optional<DirectoryLock> first(std::in_place, dir);
  std::string holder = io::read_text(file);
  leave("host elsewhere" + holder.substr(holder.find(" process")));  // the same file, as if of another host
  first->require_held();
  as_job("77", "1");
  const DirectoryLock second(dir);
  EXPECT_NE(refusal([&] { first->require_held(); }).find("is no longer this job's"), std::string::npos);
  first.reset();
  EXPECT_TRUE(fs::exists(file)) << "it is another's now";
  EXPECT_NE(refused(), "");
}

TEST_F(Lock, NoticesThatItsFolderWasReplaced) {
  std::optional<DirectoryLock> first(std::in_place, dir);
  fs::remove_all(dir);
  {
    const DirectoryLock second(dir);
    const std::string cause = refusal([&] { first->require_held(); });
    EXPECT_NE(cause.find("was removed or replaced (host "), std::string::npos) << cause;
  }
  const std::string cause =
      refusal([&] { first->require_held(); });  // the second is over, its folder is there
  EXPECT_NE(cause.find("nobody holds it"), std::string::npos) << cause;
  fs::remove_all(dir);  // nothing is there that could be another's
  first->require_held();
  EXPECT_NE(refused(), "");
  first.reset();
  EXPECT_EQ(refused(), "");
}

TEST_F(Lock, FollowsNoLink) {
  fs::create_directory(dir);
  std::ofstream(folder / "precious") << "";
  fs::create_symlink(folder / "precious", file);
  EXPECT_NE(refused(), "");
  EXPECT_EQ(fs::file_size(folder / "precious"), 0U);
}

}  // namespace
}  // namespace tessera
