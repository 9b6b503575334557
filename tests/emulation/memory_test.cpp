// What a device without enough memory says.

#include <gtest/gtest.h>

#include "launch/batches.h"
#include "launch/estimate.h"
#include "parallel/comm/local.h"
#include "tests/emulation/device.h"
#include "tests/seed.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

using emulation::EmulatedCudaDevice;

Subject small() {
  Subject subject = subject_of("llama", true, 2, 2);
  subject.batch = {8, 8, 64};
  subject.model.positions = 64;
  return subject;
}

std::string refusal(std::size_t limit, const ParallelLayout& layout) {
  const Subject subject = small();
  EmulatedCudaDevice device({}, test_seed());
  device.limit = limit;
  try {
    take_memory(device, subject.spec, subject.model, layout, subject.batch,
                plan_reduce_groups(8, 8, 1, 1, 0));
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
  return "";
}

TEST(Memory, ARunThatDoesNotFitIsRefusedWithWhatWould) {
  const Subject subject = small();
  EmulatedCudaDevice any({}, test_seed());
  const std::size_t needed = estimate_memory(subject.spec, subject.model, {}, subject.batch,
                                             plan_reduce_groups(8, 8, 1, 1, 0), &any);
  EXPECT_EQ(refusal(needed, {}), "");
  const std::string close = refusal(needed - 1, {});
  EXPECT_TRUE(close.starts_with("the run would take ")) << close;
  EXPECT_NE(close.find("cuda 0 has room for "), std::string::npos) << close;
  EXPECT_NE(close.find("train.recompute: "), std::string::npos) << close;
  EXPECT_NE(close.find("train.micro_batch: 4 would take "), std::string::npos) << close;
  EXPECT_EQ(close.find("parallel.zero"), std::string::npos) << close;
  const std::string far = refusal(1000, {});
  EXPECT_NE(far.find("share the model among more ranks"), std::string::npos) << far;
}

// A kernel that would refuse a layer is heard of before anything is trained, whichever stage has the layer.
// The loss is computed by the last stage only.
TEST(Memory, ARunWhoseKernelsRefuseItIsRefusedWhicheverStageTheyAreOf) {
  const Subject subject = small();
  for (const char* slot : {"attention_backward", "cross_entropy_backward"}) {
    EmulatedCudaDevice device({}, test_seed());
    device.limit = std::size_t{1} << 40;
    device.wished_kernels[slot] = "another";
    ParallelLayout layout;
    layout.mesh.pp = 2;
    try {
      take_memory(device, subject.spec, subject.model, layout, subject.batch,
                  plan_reduce_groups(8, 8, 1, 1, 0));
      ADD_FAILURE() << slot;
    } catch (const Error& e) {
      const std::string words = fmt::format("no kernel for op '{}' on device cuda named 'another'", slot);
      EXPECT_NE(std::string_view(e.what()).find(words), std::string::npos) << e.what();
    }
  }
}

// Graphs keep what a microbatch takes, so that an evaluation needs its own.
TEST(Memory, GraphsTakeMore) {
  const Subject subject = small();
  EmulatedCudaDevice device({}, test_seed());
  const auto estimate = [&](bool graphs) {
    return estimate_memory(subject.spec, subject.model, {}, subject.batch, plan_reduce_groups(8, 8, 1, 1, 0),
                           &device, graphs);
  };
  EXPECT_GT(estimate(true), estimate(false));
}

TEST(Memory, WhereItRunsOutTheReportSaysWhatHoldsHowMuch) {
  const Subject subject = small();
  std::string cause;
  std::size_t all = 0;
  for (const bool limited : {false, true}) {
    try {
      run_local_ranks(1, [&](ProcessGroup& world) {
        EmulatedCudaDevice device({}, test_seed());
        if (limited) device.limit = all - 1;
        Engine engine(subject.spec, device, world, {}, subject.model, subject.batch, 1, subject.optimizer);
        engine.initialize(1);
        const auto load = [&](std::size_t) {
          std::vector<Sample> samples;
          for (std::uint64_t i = 0; i < 8; ++i) samples.push_back(draw_sample(subject, i));
          return make_batch(samples, false, device);
        };
        engine.run_step(load, std::int64_t{8} * 64);
        all = device.memory().peak;
      });
    } catch (const Error& e) {
      cause = e.what();
    }
  }
  EXPECT_NE(cause.find("out of memory on device cuda 0: "), std::string::npos) << cause;
  for (const char* words :
       {"asked for", " weights", " gradients", " optimizer state", " activations", "lower train.micro_batch"})
    EXPECT_NE(cause.find(words), std::string::npos) << words << " in: " << cause;
}

}  // namespace
}  // namespace tessera::verify
