// Training over NCCL, with collectives beside other work, gives the bits of training over threads.

#include <gtest/gtest.h>

#include <array>

#include "launch/batches.h"
#include "parallel/comm/local.h"
#include "parallel/comm/nccl.h"
#include "tests/emulation/device.h"
#include "tests/nccl/stub.h"
#include "tests/seed.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

std::unique_ptr<Device> emulated(int rank) {
  return std::make_unique<emulation::EmulatedCudaDevice>(DeviceOptions{rank}, test_seed());
}

void expect_same(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, whole] : a) EXPECT_EQ(whole.values, b.at(name).values) << name;
}

void expect_same_training(const Subject& subject, const ParallelLayout& layout) {
  nccl_stub::reset();
  // The emulated memory of one rank is host memory to another: threads can exchange it.
  const Record threads = run(subject, layout, nullptr, {emulated, {}});
  const Record nccl =
      run(subject, layout, nullptr,
          {emulated, [](ProcessGroup& host, Device& device) { return make_nccl_group(host, device); }});
  EXPECT_EQ(threads.losses, nccl.losses);
  EXPECT_EQ(threads.norms, nccl.norms);
  expect_same(threads.gradients, nccl.gradients);
  expect_same(threads.weights, nccl.weights);
  EXPECT_EQ(threads.bytes_sent, nccl.bytes_sent);
  for (const std::string& fault : nccl_stub::faults()) ADD_FAILURE() << fault;
  EXPECT_EQ(nccl_stub::communicators().alive, 0);
  EXPECT_EQ(nccl_stub::communicators().aborted, 0);
  EXPECT_GT(nccl_stub::calls().size(), 10U);
}

// Of as many heads, layers and microbatches.
Subject small(const std::string& family, int heads, int steps = 1) {
  Subject subject = subject_of(family, true, heads, 2);
  subject.steps = steps;
  return subject;
}

TEST(NcclLayouts, PipelinesTrainAsThreadsDo) {
  ParallelLayout layout;
  layout.mesh.pp = 2;
  layout.virtual_stages = 2;  // messages of both directions between the same two ranks
  for (const ScheduleKind schedule : {ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    layout.schedule = schedule;
    if (schedule == ScheduleKind::zero_bubble) layout.virtual_stages = 1;
    expect_same_training(small("qwen3", 4), layout);
  }
}

TEST(NcclLayouts, ExpertsTrainAsThreadsDo) {
  ParallelLayout layout;
  layout.mesh.dp = layout.mesh.ep = 2;
  layout.zero = 2;
  for (const double buffer : {0, 2}) {
    layout.expert_buffer = buffer;
    expect_same_training(small("qwen3_moe", 4), layout);
  }
}

// How often the host of a rank waits in its third step, where experts are dealt out over two.
int host_waits(double expert_buffer, Balance balance) {
  nccl_stub::reset();
  const Subject subject = subject_of("qwen3_moe", true, 4, 2, balance);
  ParallelLayout layout;
  layout.mesh.dp = layout.mesh.ep = 2;
  layout.expert_buffer = expert_buffer;
  std::array<int, 2> waits{};
  run_local_ranks(2, [&](ProcessGroup& host) {
    emulation::EmulatedCudaDevice device({host.rank()}, test_seed());
    const auto world = make_nccl_group(host, device);
    Engine engine(subject.spec, device, *world, layout, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    engine.initialize(subject.seed);
    int before = 0;
    for (int step = 0; step < 3; ++step) {
      before = device.host_waits();
      const auto load = [&](std::size_t i) {
        const auto first = static_cast<std::uint64_t>(step * subject.batch.global_batch);
        const Sample sample = draw_sample(subject, first + 2 * i + static_cast<std::uint64_t>(host.rank()));
        return make_batch(std::span(&sample, 1), subject.document_mask, device);
      };
      engine.run_step(load, subject.batch.global_batch * subject.batch.seq_len);
      engine.update(subject.lr, subject.clip);
    }
    waits[static_cast<std::size_t>(host.rank())] = device.host_waits() - before;
    while (engine.reports_waiting() > 0) {
      const EngineReport report = engine.next_report();
      EXPECT_EQ(report.updated, 1);
      EXPECT_EQ(report.experts.overflow, "");
    }
  });
  for (const std::string& fault : nccl_stub::faults()) ADD_FAILURE() << fault;
  EXPECT_EQ(waits[0], waits[1]);
  return waits[0];
}

TEST(NcclLayouts, ExpertsInBoundedBuffersDoNotMakeTheHostWait) {
  for (const Balance balance : {Balance::none, Balance::sequence, Balance::global, Balance::bias})
    EXPECT_EQ(host_waits(2, balance), 0);
  EXPECT_GT(host_waits(0, Balance::none), 0) << "counts are read on the host";
}

TEST(NcclLayouts, CutModelsTrainAsThreadsDo) {
  ParallelLayout layout;
  layout.mesh.tp = layout.mesh.cp = 2;
  expect_same_training(small("qwen3", 2), layout);
}

TEST(NcclLayouts, SumsInTwoStagesAreThoseOfThreads) {
  ParallelLayout layout;
  layout.mesh.dp = layout.mesh.cp = 2;
  layout.zero = 3;
  expect_same_training(small("qwen3", 2), layout);
}

class NcclZero : public testing::TestWithParam<int> {};

TEST_P(NcclZero, TrainsAsThreadsDo) {
  ParallelLayout layout;
  layout.zero = GetParam();
  layout.mesh.dp = 2;
  expect_same_training(small("qwen3", 2, 2), layout);
}

INSTANTIATE_TEST_SUITE_P(Stages, NcclZero, testing::Values(0, 1, 2, 3));

}  // namespace
}  // namespace tessera::verify
