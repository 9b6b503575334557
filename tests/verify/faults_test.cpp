// A rank that throws in some phase of some schedule: all ranks end at once, with one cause that says where.

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "parallel/comm/local.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

enum class Phase { load, forward, backward };

struct Fault {
  const char* name;
  ScheduleKind schedule;
  Phase phase;
  const char* says;  // of the action
};

// Rank 3 is the second tensor-parallel rank of stage 1; it fails at its second microbatch.
std::string cause_of(const Fault& fault) {
  Subject subject = subject_of("qwen3", true);
  subject.model.recompute = Recompute::full;  // so that blocks are entered in backward too
  ParallelLayout layout;
  layout.mesh = {2, 1, 1, 2, 1, 1};
  layout.schedule = fault.schedule;
  layout.virtual_stages = fault.schedule == ScheduleKind::interleaved ? 2 : 1;
  try {
    run_local_ranks(4, [&](ProcessGroup& world) {
      const auto device = make_device(DeviceKind::cpu, {0, 1});
      Engine engine(subject.spec, *device, world, layout, subject.model, subject.batch, subject.reduce_groups,
                    subject.optimizer);
      engine.initialize(1);
      int entered = 0;
      if (world.rank() == 3 && fault.phase != Phase::load)
        engine.chunks().back()->model().layers().front()->on_enter([&](Module&) {
          if (in_backward() == (fault.phase == Phase::backward) && ++entered == 2) fail("disk on fire");
        });
      const auto load = [&](std::size_t i) {
        if (world.rank() == 3 && fault.phase == Phase::load && i == 1) fail("disk on fire");
        const Sample sample = draw_sample(subject, i);
        return make_batch(std::span(&sample, 1), true, *device);
      };
      engine.run_step(load, 100);
    });
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

class Faults : public testing::TestWithParam<Fault> {};

TEST_P(Faults, EndAllRanksWithOneCause) {
  const auto start = std::chrono::steady_clock::now();
  const std::string cause = cause_of(GetParam());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_TRUE(cause.starts_with("rank 3: stage 1, ")) << cause;
  EXPECT_NE(cause.find(GetParam().says), std::string::npos) << cause;
  EXPECT_TRUE(cause.ends_with(": disk on fire")) << cause;
  EXPECT_LT(seconds, 15);
}

INSTANTIATE_TEST_SUITE_P(Schedules, Faults,
                         testing::Values(Fault{"Load", ScheduleKind::one_f_one_b, Phase::load,
                                               "forward of microbatch 1 on chunk 1"},
                                         Fault{"Forward", ScheduleKind::one_f_one_b, Phase::forward,
                                               "forward of microbatch 1 on chunk 1"},
                                         Fault{"Backward", ScheduleKind::one_f_one_b, Phase::backward,
                                               "backward of microbatch 1 on chunk 1"},
                                         Fault{"InterleavedForward", ScheduleKind::interleaved,
                                               Phase::forward, "forward of microbatch 1 on chunk 3"},
                                         Fault{"InterleavedBackward", ScheduleKind::interleaved,
                                               Phase::backward, "backward of microbatch 1 on chunk 3"},
                                         Fault{"ZeroBubbleForward", ScheduleKind::zero_bubble, Phase::forward,
                                               "forward of microbatch 1 on chunk 1"},
                                         Fault{"ZeroBubbleBackward", ScheduleKind::zero_bubble,
                                               Phase::backward, "input gradient of microbatch 1 on chunk 1"}),
                         [](const auto& tested) { return std::string(tested.param.name); });

// Ranks that wait for one that does not come say where each stands.
TEST(Standstill, NamesTheRankThatIsBehind) {
  std::string cause;
  try {
    run_local_ranks(3, [&](ProcessGroup& world) {
      world.set_patience(0.5);
      world.set_position("step " + std::to_string(world.rank()));
      if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(2));
      world.barrier();
    });
  } catch (const Error& e) {
    cause = e.what();
    EXPECT_EQ(e.code(), ExitCode::watchdog);
  }
  EXPECT_NE(cause.find("rank 0 waits in barrier (step 0)"), std::string::npos) << cause;
  EXPECT_NE(cause.find("rank 1 is behind (step 1)"), std::string::npos) << cause;
}

}  // namespace
}  // namespace tessera::verify
