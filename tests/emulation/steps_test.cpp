// Within a step the host must not wait for the device: numbers come back a step late.

#include <gtest/gtest.h>

#include "parallel/comm/local.h"
#include "tests/emulation/device.h"
#include "tests/seed.h"
#include "tests/verify/short_run.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

using emulation::EmulatedCudaDevice;

class Steps : public testing::TestWithParam<const char*> {};

TEST_P(Steps, RunWithoutAHostWait) {
  const Subject subject = subject_of(GetParam(), true, 2, 2);
  run_local_ranks(1, [&](ProcessGroup& world) {
    EmulatedCudaDevice device({}, test_seed());
    Engine engine(subject.spec, device, world, {}, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    std::vector<int> waits;
    const ShortRun run = run_shortly(subject, engine, [&](int) { waits.push_back(device.host_waits()); });
    EXPECT_EQ(waits.back(), waits[1]);  // the first step may wait, to set up
    ASSERT_EQ(run.losses.size(), 3U);
    for (const double loss : run.losses) EXPECT_GT(loss, 1);
    for (const double norm : run.norms) EXPECT_GT(norm, 0);
  });
}

INSTANTIATE_TEST_SUITE_P(Emulated, Steps, testing::Values("llama", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

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
