// Processes that meet at a file: who is refused, and how the others hear of it. Ranks are threads that each
// open the file, as processes would, and where one must die, processes.

#include "parallel/comm/meeting.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/base/error.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// What a rank met with: the token it was given, or the error that it ended in.
struct Outcome {
  std::string token, cause;
};

class Meetings : public testing::Test {
 protected:
  void SetUp() override {
    if (forced_patience()) GTEST_SKIP() << "TESSERA_TIMEOUT is set";
    const auto name = fmt::format("tessera-meeting-{}-{}", getpid(),
                                  testing::UnitTest::GetInstance()->current_test_info()->name());
    folder = fs::temp_directory_path() / name;
    fs::create_directories(folder);
  }
  void TearDown() override { fs::remove_all(folder); }

  MeetingPlace place(int rank, int ranks, double patience = 20) const {
    return {folder / "meet", rank, ranks, "0.1 (build a)", patience, {}};
  }
  // All at once, a thread each.
  static std::vector<Outcome> outcomes(const std::vector<MeetingPlace>& places,
                                       const std::vector<std::string>& devices = {}) {
    std::vector<Outcome> all(places.size());
    std::atomic<int> ended{0};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < places.size(); ++i)
      threads.emplace_back([&, i] {
        try {
          Meeting meeting(places[i]);
          const std::string device = devices.empty() ? fmt::format("GPU {}", places[i].rank) : devices[i];
          all[i].token = meeting.meet(device, [] { return std::string("an\0id", 5); });
          ++ended;
          while (ended < static_cast<int>(places.size()) && all[i].cause.empty())
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        } catch (const Error& e) {
          all[i].cause = e.what();
          ++ended;
        }
      });
    for (std::thread& thread : threads) thread.join();
    return all;
  }
  static void expect_all_met(const std::vector<Outcome>& all) {
    for (const Outcome& one : all) {
      EXPECT_EQ(one.cause, "");
      EXPECT_EQ(one.token, std::string("an\0id", 5));
    }
  }
  void wait_until_here(int rank) const {
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1)))
      if (const auto table = MeetingTable::open(folder / "meet");
          table && table->presence(rank) == Presence::here)
        return;
  }
  bool is_empty() const { return fs::is_empty(folder); }

  fs::path folder;
};

void expect_words(const std::string& text, std::initializer_list<std::string> all) {
  for (const std::string& words : all)
    EXPECT_NE(text.find(words), std::string::npos) << words << " in: " << text;
}

TEST_F(Meetings, GiveAllTheTokenAndLeaveNoFile) {
  for (const int ranks : {1, 2, 5}) {
    std::vector<MeetingPlace> places;
    for (int r = 0; r < ranks; ++r) places.push_back(place(r, ranks));
    expect_all_met(outcomes(places));
    EXPECT_TRUE(is_empty());
  }
}

TEST_F(Meetings, WaitForRanksThatComeLater) {
  for (const int late : {0, 1}) {
    std::vector<Outcome> early;
    std::thread first([&] { early = outcomes({place(1 - late, 2)}); });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (late == 1) {
      struct stat facts {};
      ASSERT_EQ(::stat((folder / "meet").c_str(), &facts), 0);
      EXPECT_EQ(facts.st_mode & 0777U, 0600U);
    }
    expect_all_met(outcomes({place(late, 2)}));
    first.join();
    expect_all_met(early);
  }
}

TEST_F(Meetings, OfAnotherNumberOfRanksAreRefusedToAll) {
  std::vector<Outcome> all;
  std::thread first([&] { all = outcomes({place(0, 3), place(1, 3)}); });
  wait_until_here(1);  // who comes after the end hears only that rank 0 does not
  const Outcome other = outcomes({place(2, 4)})[0];
  first.join();
  all.push_back(other);
  for (const Outcome& one : all)
    expect_words(one.cause, {folder / "meet", "rank 0 is one of 3 ranks, rank 2 one of 4", "same --ranks"});
  EXPECT_TRUE(is_empty());
}

TEST_F(Meetings, OfAnotherProgramAreRefusedToAll) {
  MeetingPlace other = place(1, 2);
  other.program = "0.1 (build b)";
  for (const Outcome& one : outcomes({place(0, 2), other}))
    expect_words(one.cause, {"rank 0 runs tessera 0.1 (build a), rank 1 runs tessera 0.1 (build b)",
                             "the same program"});
}

TEST_F(Meetings, OfTwoProcessesOfOneRankAreRefusedToAll) {
  for (const Outcome& one : outcomes({place(0, 3), place(1, 3), place(1, 3)}))
    expect_words(one.cause, {"two processes are rank 1 at", folder / "meet", "--rank"});
}

TEST_F(Meetings, HaveOneRank0) {
  std::vector<Outcome> first;
  std::thread waiting([&] { first = outcomes({place(0, 2)}); });
  wait_until_here(0);
  expect_words(outcomes({place(0, 2)})[0].cause, {"another process is rank 0 at", folder / "meet", "--meet"});
  expect_all_met(outcomes({place(1, 2)}));
  waiting.join();
  expect_all_met(first);
}

TEST_F(Meetings, OfTwoRanksOnOneGpuAreRefusedToAll) {
  for (const Outcome& one : outcomes({place(0, 3), place(1, 3), place(2, 3)}, {"GPU-a", "GPU-b", "GPU-a"}))
    expect_words(one.cause, {"ranks 0 and 2 have one GPU, GPU-a", "CUDA_VISIBLE_DEVICES"});
}

TEST_F(Meetings, EndInTimeWhereARankDoesNotCome) {
  const auto start = Clock::now();
  expect_words(outcomes({place(1, 2, 0.2)})[0].cause,
               {"rank 0 did not come to", folder / "meet", "within 0 s: start it with --rank 0"});
  for (const Outcome& one : outcomes({place(0, 4, 1), place(2, 4)}))
    expect_words(one.cause, {"ranks 1, 3 of 4 did not come to", folder / "meet", "same --ranks and --meet"});
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
  EXPECT_TRUE(is_empty());
}

TEST_F(Meetings, AtWhatIsNoFileOfTheirsAreRefused) {
  for (const int rank : {0, 1}) {
    std::ofstream(folder / "meet") << "a thesis";
    expect_words(outcomes({place(rank, 2)})[0].cause,
                 {folder / "meet", "no file of ranks that meet", "remove"});
    EXPECT_TRUE(fs::exists(folder / "meet")) << "it may be dear to someone";
    fs::remove(folder / "meet");
    fs::create_directory(folder / "meet");
    expect_words(outcomes({place(rank, 2)})[0].cause, {folder / "meet", "Is a directory"});
    fs::remove(folder / "meet");
    MeetingPlace nowhere = place(rank, 2);
    nowhere.file = folder / "none" / "meet";
    expect_words(outcomes({nowhere})[0].cause, {nowhere.file, "a folder that is not there"});
  }
}

TEST_F(Meetings, AreGivenUpByARankThatIsAskedToStop) {
  for (const int rank : {0, 1}) {
    MeetingPlace alone = place(rank, 2);
    alone.is_given_up = [looks = 0]() mutable { return ++looks > 3; };
    try {
      Meeting(alone).meet("GPU 0", [] { return std::string("id"); });
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::requeue);
      expect_words(e.what(), {"asked to stop", folder / "meet", "nothing to save"});
    }
    EXPECT_TRUE(is_empty());
  }
}

// A child that is rank `rank` of two, and waits to be killed.
pid_t start_rank(const MeetingPlace& place) {
  const pid_t child = fork();
  if (child != 0) return child;
  try {
    Meeting meeting(place);
    meeting.meet(fmt::format("GPU {}", place.rank), [] { return std::string("id"); });
    meeting.say_position("step 7");
    for (;;) pause();
  } catch (...) {
    _exit(1);
  }
}

void kill_rank(pid_t child) {
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(Meetings, DoNotTakeTheFileOfADeadRunForTheirs) {
  const pid_t child = start_rank(place(0, 2));
  wait_until_here(0);
  kill_rank(child);
  ASSERT_TRUE(fs::exists(folder / "meet"));
  expect_words(outcomes({place(1, 2, 0.2)})[0].cause, {"rank 0 did not come", "a run that is gone"});
  expect_all_met(outcomes({place(1, 2), place(0, 2)}));
  EXPECT_TRUE(is_empty());
}

TEST_F(Meetings, EndWhereRank0DiesBeforeAllCame) {
  const pid_t child = start_rank(place(0, 3));
  wait_until_here(0);
  std::vector<Outcome> one;
  std::thread second([&] { one = outcomes({place(1, 3)}); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill_rank(child);
  second.join();
  expect_words(one[0].cause, {"rank 0 is gone before all ranks had come to", folder / "meet"});
}

TEST_F(Meetings, TellWhoIsGoneWithoutAWord) {
  const pid_t child = start_rank(place(1, 2));
  Meeting meeting(place(0, 2));
  meeting.meet("GPU 0", [] { return std::string("id"); });
  EXPECT_NO_THROW(meeting.look());
  while (meeting.positions()[1].empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill_rank(child);
  try {
    meeting.look();
    FAIL();
  } catch (const PeerFailed&) {
    FAIL() << "nobody else would tell";
  } catch (const Error& e) {
    expect_words(e.what(), {"rank 1 is gone without a word (step 7)"});
  }
}

TEST_F(Meetings, LetTheLowestThatFailedSpeak) {
  std::vector<int> spoke(3, -1);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      Meeting meeting(place(r, 3));
      meeting.meet(fmt::format("GPU {}", r), [] { return std::string("id"); });
      if (r > 0) {
        spoke[static_cast<std::size_t>(r)] = meeting.speaks_for_failed_ranks() ? 1 : 0;
        return;
      }
      for (const auto start = Clock::now(); Clock::now() - start < std::chrono::seconds(10);) {
        try {
          meeting.look();
        } catch (const PeerFailed&) {
          spoke[0] = 2;
          return;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(spoke, (std::vector<int>{2, 1, 0}));
}

TEST_F(Meetings, TakeAnEndInPeaceForNoFailure) {
  std::thread other([&] {
    Meeting meeting(place(1, 2));
    meeting.meet("GPU 1", [] { return std::string(); });
  });
  Meeting meeting(place(0, 2));
  meeting.meet("GPU 0", [] { return std::string("id"); });
  other.join();
  EXPECT_NO_THROW(meeting.look());
}

}  // namespace
}  // namespace tessera
