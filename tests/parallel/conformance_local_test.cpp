#include "parallel/comm/local.h"
#include "tests/parallel/conformance.h"

namespace tessera {
namespace {

class LocalRanks : public testing::TestWithParam<int> {};

TEST_P(LocalRanks, Conform) {
  run_local_ranks(GetParam(), check_communicator_on_cpu);
}

INSTANTIATE_TEST_SUITE_P(Sizes, LocalRanks, testing::Values(1, 2, 3, 4, 8));

std::string cause_of(int ranks, const std::function<void(ProcessGroup&)>& rank_main) {
  try {
    run_local_ranks(ranks, rank_main);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(LocalFailure, OneCauseAndNoHang) {
  const std::string cause = cause_of(4, [](ProcessGroup& ranks) {
    if (ranks.rank() == 2) fail("disk on fire");
    ranks.barrier();
  });
  EXPECT_EQ(cause, "rank 2: disk on fire");
}

TEST(LocalFailure, ReachesRanksThatWaitInAnotherGroup) {
  const std::string cause = cause_of(4, [](ProcessGroup& ranks) {
    const auto half = ranks.split(ranks.rank() / 2, 0);
    if (ranks.rank() == 3) fail("disk on fire");
    half->barrier();
    ranks.barrier();
  });
  EXPECT_EQ(cause, "rank 3: disk on fire");
}

TEST(LocalFailure, DisagreementInAPartNamesRanksOfTheJob) {
  const std::string cause = cause_of(4, [](ProcessGroup& ranks) {
    const auto device = make_device(DeviceKind::cpu);
    const auto half = ranks.split(ranks.rank() / 2, 0);
    half->broadcast(Tensor::zeros({ranks.rank() == 3 ? 4 : 3}, DType::f32, *device), 0);
  });
  EXPECT_NE(cause.find("rank 2 calls broadcast of 3 F32, rank 3 calls broadcast of 4 F32"), std::string::npos)
      << cause;
}

TEST(LocalFailure, DisagreementNamesBothSides) {
  const std::string cause = cause_of(2, [](ProcessGroup& ranks) {
    const auto device = make_device(DeviceKind::cpu);
    ranks.broadcast(Tensor::zeros({ranks.rank() + 3}, DType::f32, *device), 0);
  });
  EXPECT_NE(cause.find("broadcast of 3 F32"), std::string::npos) << cause;
  EXPECT_NE(cause.find("broadcast of 4 F32"), std::string::npos) << cause;
}

}  // namespace
}  // namespace tessera
