// The NCCL communicator on thread ranks with emulated devices, over a stand-in for libnccl that watches it.

#include "parallel/comm/nccl.h"

#include <cstdlib>

#include "parallel/comm/local.h"
#include "tests/emulation/device.h"
#include "tests/nccl/stub.h"
#include "tests/parallel/conformance.h"
#include "tests/seed.h"

namespace tessera {
namespace {

using emulation::EmulatedCudaDevice;
using RankMain = std::function<void(ProcessGroup&, EmulatedCudaDevice&)>;

// What ended the ranks; "" if nothing did. Nothing may be left, and no fault found but those a test expects.
std::string run_ranks(int ranks, const RankMain& rank_main, SumOrder order = SumOrder::tree) {
  nccl_stub::reset();
  std::string cause;
  try {
    run_local_ranks(ranks, [&](ProcessGroup& host) {
      EmulatedCudaDevice device({host.rank()}, test_seed());
      {
        const auto group = make_nccl_group(host, device, order);
        group->set_patience(30);
        rank_main(*group, device);
      }
      device.stream().synchronize();
      EXPECT_EQ(device.violations(), 0);
    });
  } catch (const Error& e) {
    cause = e.what();
  }
  EXPECT_EQ(nccl_stub::communicators().alive, 0);
  for (const std::string& fault : nccl_stub::faults())
    EXPECT_EQ(fault.find("aborted alone"), std::string::npos) << fault;
  return cause;
}

void expect_right(int ranks, const RankMain& rank_main, SumOrder order = SumOrder::tree) {
  EXPECT_EQ(run_ranks(ranks, rank_main, order), "");
  for (const std::string& fault : nccl_stub::faults()) ADD_FAILURE() << fault;
  EXPECT_EQ(nccl_stub::communicators().aborted, 0);
}

void expect_words(const std::string& text, std::initializer_list<const char*> all) {
  for (const char* words : all) EXPECT_NE(text.find(words), std::string::npos) << words << " in: " << text;
}

Tensor filled(Device& device, std::int64_t n, float value) {
  const std::vector<float> values(static_cast<std::size_t>(n), value);
  return Tensor::from_host(values.data(), {n}, DType::f32, device);
}

std::vector<float> on_host(const Tensor& x) {
  std::vector<float> values(static_cast<std::size_t>(x.numel()));
  x.to_host(values.data());
  return values;
}

int count_calls(const std::string& words) {
  int n = 0;
  for (const std::string& call : nccl_stub::calls())
    if (call.find(words) != std::string::npos) ++n;
  return n;
}

class NcclRanks : public testing::TestWithParam<int> {};

TEST_P(NcclRanks, Conform) {
  expect_right(GetParam(), check_communicator);
}

INSTANTIATE_TEST_SUITE_P(Sizes, NcclRanks, testing::Values(1, 2, 3, 4));

TEST(Nccl, HostMemoryNeverReachesIt) {
  expect_right(2, [](ProcessGroup& ranks, EmulatedCudaDevice&) { check_communicator_on_cpu(ranks); });
  EXPECT_EQ(count_calls("Gather"), 0);
}

TEST(Nccl, SumsNativelyWhereAsked) {
  const auto sums = [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    const auto rank = static_cast<float>(ranks.rank());
    const Tensor x = filled(device, 12, rank);
    ranks.all_reduce(x);
    EXPECT_EQ(on_host(x), std::vector<float>(12, 6));
    const Tensor part = Tensor::empty({3}, DType::f32, device);
    ranks.reduce_scatter(part, filled(device, 12, rank));
    EXPECT_EQ(on_host(part), std::vector<float>(3, 6));
    std::vector<Tensor> in;
    for (std::int64_t r = 0; r < 4; ++r) in.push_back(filled(device, r, rank));
    const Tensor own = Tensor::empty({ranks.rank()}, DType::f32, device);
    ranks.reduce_scatter(own, in);
    EXPECT_EQ(on_host(own), std::vector<float>(static_cast<std::size_t>(ranks.rank()), 6));
  };
  expect_right(4, sums, SumOrder::native);
  EXPECT_EQ(count_calls("AllReduce of 12 float32"), 4);
  EXPECT_EQ(count_calls("ReduceScatter of 3 float32"), 4);
  EXPECT_EQ(count_calls("Reduce of 2 float32 at 2"), 4);
  expect_right(4, sums);
  EXPECT_EQ(count_calls("Reduce"), 0);
}

// Both ends first send all they have, in another order than the other receives it.
TEST(Nccl, MessagesCrossWithoutWaiting) {
  expect_right(2, [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    ranks.connect();
    const int other = 1 - ranks.rank();
    for (int round = 0; round < 3; ++round) {
      for (int tag = 0; tag < 5; ++tag) {
        const Tensor x = filled(device, tag, static_cast<float>(10 * ranks.rank() + tag));
        ranks.send(x, other, tag);
        Tensor(x).zero();
      }
      for (int tag = 4; tag >= 0; --tag) {
        const Tensor x = Tensor::empty({tag}, DType::f32, device);
        ranks.recv(x, other, tag);
        EXPECT_EQ(on_host(x),
                  std::vector<float>(static_cast<std::size_t>(tag), static_cast<float>(10 * other + tag)));
      }
    }
  });
}

TEST(Nccl, MessagesWantAWay) {
  const auto send_to = [](int to) {
    return [to](ProcessGroup& ranks, EmulatedCudaDevice& device) {
      if (to == 2) ranks.connect();
      if (ranks.rank() == 0) ranks.send(filled(device, 1, 0), to);
    };
  };
  expect_words(run_ranks(4, send_to(1)), {"rank 0: no way for messages", "from rank 0 to 1", "connect()"});
  expect_words(run_ranks(4, send_to(2)), {"rank 0: no way for messages", "from rank 0 to 2"});
}

TEST(Nccl, DeferredCallsMayNotBeUsedBeforeTheirEnd) {
  const auto gathers = [](bool joins) {
    return [joins](ProcessGroup& ranks, EmulatedCudaDevice& device) {
      const Tensor all = Tensor::empty({6}, DType::f32, device);
      ranks.defer([&] { ranks.all_gather(all, filled(device, 3, 1)); });
      if (joins) ranks.join();
      Tensor(all).zero();
      ranks.join();
    };
  };
  expect_right(2, gathers(true));
  expect_words(run_ranks(2, gathers(false)), {"zeroing memory", "no event orders them"});
}

TEST(NcclFailure, ALateErrorIsOneLineAndAbortsAll) {
  nccl_stub::reset();
  const std::string cause = run_ranks(4, [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    const auto half = ranks.split(ranks.rank() / 2, ranks.rank());
    const Tensor x = filled(device, 6, 1);
    ranks.all_reduce(x);
    half->all_reduce(x);
    half->connect();
    ranks.barrier();
    const Tensor y = filled(device, 4, 1);
    if (ranks.rank() == 2) {
      nccl_stub::break_call(4, 2, 1, ncclRemoteError);
      half->send(y, 1, 0);  // which rank 3 does not receive
    }
    ranks.broadcast(x, 1);
  });
  expect_words(cause, {"rank 2: rank 2 on cuda 2 (emulated GPU): NCCL failed in broadcast of 6 F32: remote",
                       "; a peer or the network to it is gone"});
  // Those that had gone on may have ended in peace; rank 2's, and of those that wait, did not.
  EXPECT_GE(nccl_stub::communicators().aborted, 2);
}

TEST(NcclFailure, IsFoundWhileTheHostWaitsForTheDevice) {
  const std::string cause = run_ranks(2, [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    ranks.all_reduce(filled(device, 6, 1));
    device.while_waiting(0.1);
    ranks.barrier();
    if (ranks.rank() == 1) {
      nccl_stub::break_now(2, 1, ncclSystemError);
      EXPECT_THROW(device.stream().synchronize(), Error);
      EXPECT_EQ(nccl_stub::communicators().aborted, 1);
      ranks.broadcast(filled(device, 1, 1), 0);  // what failed stays so
      ADD_FAILURE();
    }
    ranks.barrier();
  });
  expect_words(cause, {"rank 1 on cuda 1", "NCCL failed in all_gather of 6 F32: unhandled system error",
                       "NCCL_SOCKET_IFNAME"});
}

TEST(NcclFailure, APeersWakesThoseThatWait) {
  for (const bool connected : {false, true}) {
    const std::string cause = run_ranks(4, [&](ProcessGroup& ranks, EmulatedCudaDevice& device) {
      if (connected) ranks.all_reduce(filled(device, 8, 1));
      if (ranks.rank() == 2) fail("disk on fire");
      ranks.all_reduce(filled(device, 8, 1));
      ADD_FAILURE();
    });
    EXPECT_EQ(cause, "rank 2: disk on fire");
    EXPECT_EQ(nccl_stub::communicators().aborted, nccl_stub::communicators().made);
  }
}

TEST(NcclFailure, PatienceEnds) {
  if (forced_patience()) GTEST_SKIP() << "TESSERA_TIMEOUT is set";
  const std::string cause = run_ranks(2, [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    ranks.all_reduce(filled(device, 8, 1));
    ranks.set_position("step 7");
    ranks.barrier();
    ranks.set_patience(0.3);
    if (ranks.rank() == 0) ranks.broadcast(filled(device, 8, 1), 0);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    device.while_waiting(0);
  });
  expect_words(cause, {"no progress for 0 s", "rank 0 waits in broadcast of 8 F32 (step 7)",
                       "rank 1 is behind (step 7)"});
}

TEST(NcclFailure, DisagreementIsNamedWhereAskedFor) {
  ::setenv("TESSERA_CHECK_COLLECTIVES", "1", 1);
  const std::string cause = run_ranks(2, [](ProcessGroup& ranks, EmulatedCudaDevice& device) {
    ranks.broadcast(filled(device, ranks.rank() + 3, 1), 0);
  });
  ::unsetenv("TESSERA_CHECK_COLLECTIVES");
  expect_words(cause, {"rank 0 calls broadcast of 3 F32, rank 1 calls broadcast of 4 F32"});
  EXPECT_TRUE(nccl_stub::calls().empty());
}

std::string refused(const std::function<void(int rank, EmulatedCudaDevice&)>& change) {
  nccl_stub::reset();
  try {
    run_local_ranks(3, [&](ProcessGroup& host) {
      EmulatedCudaDevice device({host.rank()}, test_seed());
      change(host.rank(), device);
      make_nccl_group(host, device);
    });
  } catch (const Error& e) {
    EXPECT_EQ(nccl_stub::communicators().made, 0);
    return e.what();
  }
  return "";
}

TEST(NcclSetup, RefusesGpusOfSeveralKinds) {
  expect_words(
      refused([](int rank, EmulatedCudaDevice& device) {
        if (rank == 2) device.model_name = "older GPU";
      }),
      {"ranks have different GPUs: rank 0 emulated GPU, rank 2 older GPU; ", "CUDA_VISIBLE_DEVICES"});
}

TEST(NcclSetup, RefusesTwoRanksOnOneGpu) {
  expect_words(refused([](int rank, EmulatedCudaDevice& device) {
                 if (rank == 2) device.identity_name = "cuda 1";
               }),
               {"ranks 1 and 2 have one GPU, cuda 1: NCCL needs one for each"});
}

}  // namespace
}  // namespace tessera
