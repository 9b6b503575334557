// Within a step the host must not wait for the device: numbers come back a step late.

#include <gtest/gtest.h>

#include <numeric>

#include "core/base/error.h"
#include "parallel/comm/local.h"
#include "tests/emulation/device.h"
#include "tests/seed.h"
#include "tests/verify/short_run.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

using emulation::EmulatedCudaDevice;

struct Run {
  const char* name;
  const char* family;
  Balance balance = Balance::none;
};

class Steps : public testing::TestWithParam<Run> {};

TEST_P(Steps, RunWithoutAHostWait) {
  const Subject subject = subject_of(GetParam().family, true, 4, 2, GetParam().balance);
  run_local_ranks(1, [&](ProcessGroup& world) {
    EmulatedCudaDevice device({}, test_seed());
    Engine engine(subject.spec, device, world, {}, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    std::vector<int> waits;
    const ShortRun run = run_shortly(subject, engine, [&](int) { waits.push_back(device.host_waits()); });
    EXPECT_EQ(waits.back(), waits[1]);  // the first step may wait, to set up
    ASSERT_EQ(run.reports.size(), 3U);
    for (const EngineReport& report : run.reports) {
      EXPECT_GT(report.loss, 1);
      EXPECT_GT(report.norm, 0);
      EXPECT_EQ(report.updated, 1);
      double slots = 0;
      for (const auto& layer : report.experts.slots)
        slots += std::accumulate(layer.begin(), layer.end(), 0.0);
      const double tokens = static_cast<double>(subject.batch.global_batch * subject.batch.seq_len);
      EXPECT_EQ(slots, 2 * tokens * static_cast<double>(moe_layers(subject.spec)));
      const bool term = GetParam().balance == Balance::sequence || GetParam().balance == Balance::global;
      EXPECT_EQ(report.experts.balance > 0, term);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Emulated, Steps,
                         testing::Values(Run{"llama", "llama"}, Run{"qwen3", "qwen3"},
                                         Run{"experts", "qwen3_moe"},
                                         Run{"experts_by_sequence", "qwen3_moe", Balance::sequence},
                                         Run{"experts_by_batch", "qwen3_moe", Balance::global},
                                         Run{"experts_by_bias", "qwen3_moe", Balance::bias}),
                         [](const auto& test) { return std::string(test.param.name); });

// A message that is read before its event has come is not there yet.
TEST(Mailbox, HoldsNothingBeforeItsEvent) {
  EmulatedCudaDevice device({}, test_seed());
  const double sent[] = {1, 2};
  const Tensor message = Tensor::from_host(sent, {2}, DType::f64, device);
  auto* slot = static_cast<double*>(device.allocate_pinned(sizeof sent));
  device.copy_behind(slot, message.raw(), sizeof sent);
  const std::uint64_t event = device.stream().record();
  EXPECT_TRUE(std::isnan(slot[0]));
  device.stream().synchronize(event);
  EXPECT_EQ(slot[0], 1);
  EXPECT_EQ(slot[1], 2);
  device.release_pinned(slot);
}

// As after a peer has gone: its end must not throw while an exception is on its way.
TEST(Mailbox, EndsQuietlyWhereTheWaitForItsMessagesFails) {
  EmulatedCudaDevice device({}, test_seed());
  const double sent = 1;
  const Tensor message = Tensor::from_host(&sent, {1}, DType::f64, device);
  EXPECT_THROW(
      {
        Mailbox box(device, 1);
        box.post(message);
        device.while_waiting = [](double) { fail("rank 1 is gone"); };
        box.take();
      },
      Error);
  device.while_waiting = nullptr;
}

TEST(Mailbox, GivesMessagesInOrder) {
  EmulatedCudaDevice device({}, test_seed());
  Mailbox box(device, 1);
  for (double x = 0; x < 5; ++x) {
    box.post(Tensor::from_host(&x, {1}, DType::f64, device));
    if (x < 2) continue;
    EXPECT_EQ(box.take(), std::vector<double>{x - 2});
  }
  EXPECT_EQ(box.waiting(), 2U);
}

}  // namespace
}  // namespace tessera::verify
