#include "core/base/watch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <deque>
#include <filesystem>
#include <functional>
#include <thread>

#include "core/base/thread_pool.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Ranks as threads of this process, or said to be another's, under one watch.
class Watching : public testing::Test {
 protected:
  // What a watch says of these ranks; "" after `limit`.
  std::string verdict(const std::vector<std::function<void()>>& ranks, double limit, double patience = 0.3,
                      double storage = 3, std::size_t elsewhere = 0) {
    std::deque<Activity> activities(ranks.size() + elsewhere);
    std::vector<WatchedRank> watched;
    for (std::size_t r = 0; r < activities.size(); ++r) {
      activities[r].set_patience(patience, storage);
      watched.push_back({static_cast<int>(r), &activities[r], r < ranks.size()});
    }
    std::atomic<std::uint32_t> spoken{0};
    std::string said;
    std::atomic<bool> done = false;
    std::atomic<std::size_t> at_end = 0;  // none has ended while another is still said to wait
    std::vector<std::thread> threads;
    {
      const Watch watch(watched, static_cast<int>(watched.size()), spoken, [&](const Standstill& found) {
        said = found.text;
        done = true;
      });
      for (std::size_t r = 0; r < ranks.size(); ++r)
        threads.emplace_back([&, r] {
          const ActivityScope scope(activities[r]);
          set_position("step " + std::to_string(r));
          ranks[r]();
          while (over == 0 && !done) std::this_thread::sleep_for(1ms);
          for (++at_end; at_end < ranks.size() && !done;) std::this_thread::sleep_for(1ms);
        });
      const auto start = Clock::now();
      while (!done && over == 0 && std::chrono::duration<double>(Clock::now() - start).count() < limit)
        std::this_thread::sleep_for(5ms);
      over = 1;
      for (std::thread& thread : threads) thread.join();
    }
    return said;
  }
  // A rank that waits in `call`, until it is over.
  std::function<void()> waits(const char* call) {
    return [this, call] {
      const DoingScope scope(Doing::waits, call);
      hang();
    };
  }
  void hang() const {
    for (int i = 0; over == 0 && i < 2000; ++i) std::this_thread::sleep_for(5ms);
  }
  std::atomic<int> over{0};
};

TEST_F(Watching, NamesTheRankThatWorksAndDoesNotGetOn) {
  EXPECT_EQ(verdict({waits("barrier"), [this] { hang(); }}, 10),
            "no progress for 0 s: rank 1 is behind (step 1); rank 0 waits in barrier (step 0)");
}

TEST_F(Watching, ARankAloneIsWatchedToo) {
  EXPECT_EQ(verdict({[this] { hang(); }}, 10), "no progress for 0 s: rank 0 is behind (step 0)");
}

// Nobody ends what a rank of another process does, but all see whether its watcher lives.
TEST_F(Watching, NamesAProcessThatDoesNotAnswer) {
  const std::string said = verdict({waits("barrier")}, 30, 0.3, 3, 1);
  EXPECT_NE(said.find("rank 1 does not answer: it hangs or is gone"), std::string::npos) << said;
}

TEST_F(Watching, GivesStorageMoreTimeAndNamesTheFile) {
  const auto slow = [this](double seconds) {
    return [this, seconds] {
      const DoingScope scope(Doing::uses_storage, "fsync of", std::filesystem::path("a.h5"));
      const auto start = Clock::now();
      while (over == 0 && std::chrono::duration<double>(Clock::now() - start).count() < seconds)
        std::this_thread::sleep_for(5ms);
      over = 1;
    };
  };
  EXPECT_EQ(verdict({waits("barrier"), slow(1.5)}, 10, 0.3, 1000), "");
  over = 0;
  const std::string said = verdict({waits("barrier"), slow(60)}, 30, 0.1, 1);
  EXPECT_NE(said.find("rank 1 is behind in fsync of 'a.h5' (step 1); rank 0 waits"), std::string::npos)
      << said;
}

TEST_F(Watching, SeesThatAPoolsLoopGetsOn) {
  const auto loops = [this] {
    ThreadPool pool(2);
    pool.parallel_for(200, [](std::int64_t) { std::this_thread::sleep_for(20ms); });
    over = 1;
  };
  EXPECT_EQ(verdict({loops, waits("barrier")}, 30, 0.8), "");
}

TEST_F(Watching, SaysWhereAllWaitInVain) {
  const std::string said = verdict({waits("recv from rank 1"), waits("barrier")}, 10);
  EXPECT_NE(said.find("rank 0 waits in recv from rank 1 (step 0); rank 1 waits in barrier (step 1)"),
            std::string::npos)
      << said;
}

TEST(Watch, TakesNoSignals) {
  sigset_t blocked;
  start_quiet_thread([&] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); }).join();
  for (const int number : {SIGTERM, SIGUSR1, SIGINT}) EXPECT_EQ(sigismember(&blocked, number), 1);
}

TEST(SharedText, IsReadWholeWhileItIsWritten) {
  SharedText text;
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) text.set(std::string(static_cast<std::size_t>(i % 200), "abcdef"[i % 6]));
  });
  for (int i = 0; i < 20000; ++i) {
    const std::string seen = text.get();
    if (seen.find_first_not_of(seen.empty() ? 'a' : seen[0]) == std::string::npos) continue;
    ADD_FAILURE() << seen;
    break;
  }
  stop = true;
  writer.join();
  text.set(std::string(1000, 'x'));
  EXPECT_EQ(text.get(), std::string(255, 'x'));
}

}  // namespace
}  // namespace tessera
