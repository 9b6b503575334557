// Ranks that meet at a file and exchange all they have through NCCL, on threads that each open the file, with
// emulated devices, over the stand-in for libnccl.

#include "parallel/comm/nccl_world.h"

#include <unistd.h>

#include <chrono>
#include <thread>

#include "parallel/comm/local.h"
#include "parallel/comm/nccl.h"
#include "tests/emulation/device.h"
#include "tests/nccl/stub.h"
#include "tests/parallel/conformance.h"
#include "tests/seed.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using emulation::EmulatedCudaDevice;
using RankMain = std::function<void(ProcessGroup&)>;

fs::path meeting_file() {
  return fs::temp_directory_path() / fmt::format("tessera-nccl-world-{}", getpid());
}

// What ended each rank; "" if nothing did, "a peer" where that was another's failure.
std::vector<std::string> run_met(int ranks, const RankMain& rank_main) {
  nccl_stub::reset();
  std::vector<std::string> causes(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      std::string& cause = causes[static_cast<std::size_t>(r)];
      Meeting meeting({meeting_file(), r, ranks, "build"});
      try {
        auto device = std::make_unique<EmulatedCudaDevice>(DeviceOptions{r}, test_seed());
        const EmulatedCudaDevice& watched = *device;
        const auto group = make_nccl_world(meeting, std::move(device));
        group->set_patience(30);
        rank_main(*group);
        EXPECT_EQ(watched.violations(), 0);
      } catch (const PeerFailed&) {
        cause = "a peer";
      } catch (const Error& e) {
        cause = e.what();
        meeting.speaks_for_failed_ranks();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(nccl_stub::communicators().alive, 0);
  EXPECT_FALSE(fs::exists(meeting_file()));
  return causes;
}

void expect_right(int ranks, const RankMain& rank_main) {
  for (const std::string& cause : run_met(ranks, rank_main)) EXPECT_EQ(cause, "");
  for (const std::string& fault : nccl_stub::faults()) ADD_FAILURE() << fault;
  EXPECT_EQ(nccl_stub::communicators().aborted, 0);
}

void expect_words(const std::string& text, std::initializer_list<const char*> all) {
  for (const char* words : all) EXPECT_NE(text.find(words), std::string::npos) << words << " in: " << text;
}

class MetRanks : public testing::TestWithParam<int> {};

TEST_P(MetRanks, ConformWithHostMemory) {
  expect_right(GetParam(), check_communicator_on_cpu);
}

// As under a run: host values through the world's device, tensors through the rank's own.
TEST_P(MetRanks, ConformUnderAGroupOfGpus) {
  expect_right(GetParam(), [](ProcessGroup& world) {
    EmulatedCudaDevice device({world.rank()}, test_seed());
    {
      const auto group = make_nccl_group(world, device);
      check_communicator(*group, device);
      check_communicator_on_cpu(*group);
    }
    device.stream().synchronize();
    EXPECT_EQ(device.violations(), 0);
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, MetRanks, testing::Values(1, 2, 3, 4));

TEST(NcclWorld, IsOneNodeWhoseRanksAreInOrder) {
  expect_right(3, [](ProcessGroup& world) {
    EXPECT_EQ(world.ranks_on_node(), 3);
    EXPECT_EQ(world.rank_on_node(), world.rank());
    EXPECT_STREQ(world.kind(), "nccl");
  });
}

TEST(NcclWorld, MovesNothingWhereNothingIs) {
  expect_right(2, [](ProcessGroup& world) {
    EXPECT_EQ(world.all_gather_text(""), (std::vector<std::string>{"", ""}));
    EXPECT_TRUE(world.all_gather(std::span<const double>(), std::vector<std::int64_t>{0, 0}).empty());
    const std::vector<double> mine(world.rank() == 0 ? 0 : 3, 2.5);
    EXPECT_EQ(world.all_gather(mine, std::vector<std::int64_t>{0, 3}), (std::vector<double>{2.5, 2.5, 2.5}));
  });
}

TEST(NcclWorld, WantsAWayForMessages) {
  const auto causes = run_met(2, [](ProcessGroup& world) {
    const auto device = make_device(DeviceKind::cpu);
    if (world.rank() == 0) world.send(Tensor::zeros({1}, DType::f32, *device), 1);
    world.barrier();
  });
  expect_words(causes[0], {"no way for messages on GPUs from rank 0 to 1", "connect()"});
  EXPECT_EQ(causes[1], "a peer");
}

TEST(NcclWorldFailure, OfARankEndsTheOthersThatWait) {
  const auto causes = run_met(3, [](ProcessGroup& world) {
    const auto half = world.split(world.rank() / 2, 0);
    if (world.rank() == 1) fail("disk on fire");
    world.barrier();
    ADD_FAILURE();
  });
  EXPECT_EQ(causes, (std::vector<std::string>{"a peer", "disk on fire", "a peer"}));
}

// The device is busy and the host waits for it: there too a peer's failure is heard of.
TEST(NcclWorldFailure, ReachesTheGroupsOfGpus) {
  const auto causes = run_met(2, [](ProcessGroup& world) {
    EmulatedCudaDevice device({world.rank()}, test_seed());
    const auto group = make_nccl_group(world, device);
    const Tensor x = Tensor::zeros({8}, DType::f32, device);
    group->all_reduce(x);
    if (world.rank() == 1) fail("disk on fire");
    for (int i = 0; i < 1000; ++i) {
      device.while_waiting(0.1);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE();
  });
  EXPECT_EQ(causes, (std::vector<std::string>{"a peer", "disk on fire"}));
}

TEST(NcclWorldFailure, OfNcclIsOneLine) {
  const auto causes = run_met(2, [](ProcessGroup& world) {
    world.barrier();
    if (world.rank() == 1) nccl_stub::break_now(2, 1, ncclSystemError);
    world.barrier();
  });
  expect_words(causes[1],
               {"rank 1 on cuda 1 (emulated GPU): NCCL failed in barrier: unhandled system error"});
}

TEST(NcclWorldFailure, PatienceEndsSayingWhereAllStand) {
  if (forced_patience()) GTEST_SKIP() << "TESSERA_TIMEOUT is set";
  const auto causes = run_met(2, [](ProcessGroup& world) {
    world.set_position("step 7");
    world.barrier();
    world.set_patience(0.3);
    if (world.rank() == 0) world.barrier();
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(10))) world.still_waiting("its work", 0);
  });
  expect_words(causes[0], {"no progress for 0 s", "rank 0: waits in barrier (step 7)", "rank 1: step 7"});
  EXPECT_EQ(causes[1], "a peer");
}

TEST(NcclWorldFailure, DisagreementIsNamedWhereAskedFor) {
  ::setenv("TESSERA_CHECK_COLLECTIVES", "1", 1);
  const auto causes = run_met(2, [](ProcessGroup& world) {
    const auto device = make_device(DeviceKind::cpu);
    world.broadcast(Tensor::zeros({world.rank() + 3}, DType::f32, *device), 0);
  });
  ::unsetenv("TESSERA_CHECK_COLLECTIVES");
  for (const std::string& cause : causes)
    if (cause != "a peer")
      expect_words(cause, {"rank 0 calls broadcast of 3 F32, rank 1 calls broadcast of 4 F32"});
}

}  // namespace
}  // namespace tessera
