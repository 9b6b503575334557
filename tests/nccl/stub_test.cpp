// The stand-in for NCCL must find every kind of wrong call that it is there to find.

#include "tests/nccl/stub.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/tensor/tensor.h"
#include "tests/emulation/device.h"

namespace tessera::nccl_stub {
namespace {

using emulation::EmulatedCudaDevice;

// Two ranks on this thread, whose calls do not block.
class StubTest : public testing::Test {
 protected:
  struct Rank {
    explicit Rank(int ordinal) : device({ordinal}, 1), stream(device.make_stream(true)) {
      x = Tensor::zeros({8}, DType::f32, device);
      y = Tensor::zeros({16}, DType::f32, device);
      order();
    }
    void order() { stream->wait(device.stream().record()); }
    cudaStream_t on() const { return static_cast<cudaStream_t>(stream->native()); }
    EmulatedCudaDevice device;
    std::unique_ptr<Stream> stream;
    Tensor x, y;
    ncclComm_t comm = nullptr;
  };
  StubTest() {
    reset();
    ncclGetUniqueId(&id_);
    make(a, 0);
    make(b, 1);
  }
  ~StubTest() override {
    for (Rank* rank : {&a, &b})
      if (rank->comm != nullptr) ncclCommAbort(rank->comm);
    while (ncclGroupEnd() == ncclSuccess) continue;  // what a test left open
    reset();
  }
  ncclResult_t make(Rank& rank, int number, int size = 2, int blocking = 0) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    return ncclCommInitRankConfig(&rank.comm, size, id_, number, &config);
  }
  static ncclResult_t gather(Rank& rank, std::size_t count = 8, ncclDataType_t type = ncclFloat32) {
    return ncclAllGather(rank.x.raw(), rank.y.raw(), count, type, rank.comm, rank.on());
  }
  static ncclResult_t send(Rank& rank, std::size_t count = 8) {
    return ncclSend(rank.x.raw(), count, ncclFloat32, rank.comm == nullptr ? 0 : other(rank), rank.comm,
                    rank.on());
  }
  static ncclResult_t recv(Rank& rank, std::size_t count = 8) {
    return ncclRecv(rank.y.raw(), count, ncclFloat32, other(rank), rank.comm, rank.on());
  }
  static int other(const Rank& rank) { return 1 - rank.device.ordinal(); }
  static ncclResult_t state(const Rank& rank) {
    ncclResult_t result = ncclSuccess;
    ncclCommGetAsyncError(rank.comm, &result);
    return result;
  }
  static void expect_fault(const std::string& words) {
    const auto found = faults();
    ASSERT_EQ(found.size(), 1U) << (found.empty() ? "" : found[0] + "; " + found[1]);
    EXPECT_NE(found[0].find(words), std::string::npos) << found[0];
  }
  static void expect_none() {
    for (const std::string& fault : faults()) ADD_FAILURE() << fault;
  }

  ncclUniqueId id_{};
  Rank a{0}, b{1};
};

TEST_F(StubTest, MovesOnceAllHaveAsked) {
  a.x.data<float>()[7] = 3;
  EXPECT_EQ(gather(a), ncclInProgress);
  EXPECT_EQ(state(a), ncclInProgress);
  EXPECT_EQ(b.y.data<float>()[7], 0);
  EXPECT_EQ(gather(b), ncclSuccess);
  EXPECT_EQ(state(a), ncclSuccess);
  EXPECT_EQ(b.y.data<float>()[7], 3);
  EXPECT_EQ(calls(), (std::vector<std::string>{"rank 0 of 2: AllGather of 8 float32",
                                               "rank 1 of 2: AllGather of 8 float32"}));
  expect_none();
}

TEST_F(StubTest, FindsDifferentCollectives) {
  gather(a);
  ncclAllReduce(b.x.raw(), b.x.raw(), 8, ncclFloat32, ncclSum, b.comm, b.on());
  expect_fault("rank 0 asks for AllGather of 8 float32, rank 1 for AllReduce of 8 float32");
  EXPECT_EQ(state(a), ncclInvalidUsage);
  EXPECT_EQ(state(b), ncclInvalidUsage);
}

TEST_F(StubTest, FindsDifferentSizes) {
  gather(a);
  gather(b, 7);
  expect_fault("rank 0 asks for AllGather of 8 float32, rank 1 for AllGather of 7 float32");
}

TEST_F(StubTest, FindsDifferentTypes) {
  gather(a);
  gather(b, 8, ncclInt32);
  expect_fault("rank 1 for AllGather of 8 int32");
}

TEST_F(StubTest, FindsDifferentRoots) {
  for (Rank* rank : {&a, &b})
    ncclBroadcast(rank->x.raw(), rank->x.raw(), 8, ncclFloat32, rank == &a ? 0 : 1, rank->comm, rank->on());
  expect_fault("rank 1 for Broadcast of 8 float32 at 1");
}

TEST_F(StubTest, FindsMessagesOfDifferentSizes) {
  send(a);
  recv(b, 4);
  expect_fault("rank 0 asks for Send of 8 float32 to 1, rank 1 for Recv of 4 float32 from 0");
}

TEST_F(StubTest, FindsACallBeforeTheCommunicatorIsMade) {
  ncclGetUniqueId(&id_);
  Rank c(0);
  EXPECT_EQ(make(c, 0), ncclInProgress);
  EXPECT_EQ(state(c), ncclInProgress);
  gather(c);
  expect_fault("rank 0 of 2: a call before the communicator is made");
  ncclCommAbort(c.comm);
}

TEST_F(StubTest, FindsACallOnNoCommunicator) {
  Rank c(0);
  gather(c);
  expect_fault("a call on no live communicator");
}

TEST_F(StubTest, FindsACallOnAnEndedCommunicator) {
  Rank ended(0);
  ended.comm = a.comm;
  ncclCommAbort(std::exchange(a.comm, nullptr));
  gather(ended);
  expect_fault("a call on no live communicator");
}

TEST_F(StubTest, FindsACallWhileOneIsInProgress) {
  gather(a);
  gather(a);
  expect_fault("rank 0 of 2: a call while one before is in progress");
}

TEST_F(StubTest, FindsAnAbortThatWaitsForAnotherCommunicator) {
  gather(a);
  ncclCommAbort(std::exchange(b.comm, nullptr));
  expect_fault("aborted alone while the GPU waits in another communicator");
}

TEST_F(StubTest, LetsCommunicatorsEndTogether) {
  gather(a);
  ncclGroupStart();
  ncclCommAbort(std::exchange(b.comm, nullptr));
  ncclCommAbort(std::exchange(a.comm, nullptr));
  ncclGroupEnd();
  expect_none();
}

TEST_F(StubTest, FindsAGroupThatWasNotOpened) {
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  expect_fault("ncclGroupEnd without ncclGroupStart");
}

TEST_F(StubTest, FindsAGroupLeftOpen) {
  ncclGroupStart();
  gather(a);
  EXPECT_TRUE(calls().empty());
  state(a);
  expect_fault("rank 0 of 2: a question within an open group");
}

TEST_F(StubTest, AsksForNestedGroupsAtTheEndOfTheFirst) {
  for (Rank* rank : {&a, &b}) {
    ncclGroupStart();
    ncclGroupStart();
    send(*rank);
    EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
    recv(*rank);
    EXPECT_EQ(ncclGroupEnd(), rank == &a ? ncclInProgress : ncclSuccess);
  }
  EXPECT_EQ(state(a), ncclSuccess);
  expect_none();
}

TEST_F(StubTest, FindsAStreamOfNoDevice) {
  ncclAllGather(a.x.raw(), a.y.raw(), 8, ncclFloat32, a.comm, nullptr);
  expect_fault("AllGather of 8 float32 on a stream of no device");
}

TEST_F(StubTest, FindsAStreamOfAnotherDevice) {
  ncclAllGather(a.x.raw(), a.y.raw(), 8, ncclFloat32, a.comm, b.on());
  expect_fault("a transfer is given memory of another device");
}

TEST_F(StubTest, FindsASecondStream) {
  gather(a);
  gather(b);
  ncclAllGather(a.x.raw(), a.y.raw(), 8, ncclFloat32, a.comm,
                static_cast<cudaStream_t>(a.device.stream().native()));
  expect_fault("AllGather of 8 float32 on a second stream");
}

TEST_F(StubTest, FindsAMissingEvent) {
  a.x.zero();  // on the device's stream, which this one has not waited for since
  gather(a);
  expect_fault("stream 1 reads bytes 0 to 32, which stream 0 writes, and no event orders them");
}

TEST_F(StubTest, FindsTooLittleMemory) {
  gather(a, 9);
  expect_fault("a transfer is given 36 bytes at byte 0 of an allocation of 32");
}

TEST_F(StubTest, FindsHostMemory) {
  std::vector<float> host(16);
  ncclAllGather(a.x.raw(), host.data(), 8, ncclFloat32, a.comm, a.on());
  expect_fault("an address that is in no allocation of its device");
}

TEST_F(StubTest, FirstMessageWaitsAndLaterOnesDoNot) {
  EXPECT_EQ(send(a), ncclInProgress);
  EXPECT_EQ(recv(b), ncclSuccess);
  EXPECT_EQ(state(a), ncclSuccess);
  EXPECT_EQ(send(a), ncclSuccess);
  EXPECT_EQ(send(a), ncclSuccess);
  expect_none();
}

TEST_F(StubTest, FindsWhatComesBehindAMessageThatIsNotReceived) {
  send(a);
  recv(b);
  send(a);
  recv(a);
  expect_fault("behind a message to rank 1 that is not received: its kernel may never start");
}

TEST_F(StubTest, FindsACommunicatorThatBlocks) {
  ncclGetUniqueId(&id_);
  Rank c(0);
  make(c, 0, 2, 1);
  expect_fault("a communicator that blocks");
}

TEST_F(StubTest, FindsRanksTwiceAndOtherSizes) {
  Rank c(0);
  make(c, 1);
  EXPECT_EQ(faults().size(), 1U);
  make(c, 0, 3);
  EXPECT_EQ(faults().size(), 2U);
}

TEST_F(StubTest, AnEndWaitsForAllRanks) {
  EXPECT_EQ(ncclCommFinalize(a.comm), ncclInProgress);
  EXPECT_EQ(state(a), ncclInProgress);
  ncclCommFinalize(b.comm);
  EXPECT_EQ(state(a), ncclSuccess);
  for (Rank* rank : {&a, &b}) EXPECT_EQ(ncclCommDestroy(std::exchange(rank->comm, nullptr)), ncclSuccess);
  expect_none();
}

TEST_F(StubTest, FindsAnEndWithoutFinalize) {
  ncclCommDestroy(std::exchange(a.comm, nullptr));
  expect_fault("rank 0 of 2: destroyed before its end");
  EXPECT_EQ(communicators().alive, 1);
}

}  // namespace
}  // namespace tessera::nccl_stub
