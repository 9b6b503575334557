// What `tessera bench kernels` times, and whether its figures hang together.

#include <gtest/gtest.h>

#include "checkpoint/hf_config.h"
#include "core/models/family.h"
#include "core/tensor/kernel.h"
#include "launch/bench/kernels.h"
#include "launch/config/config.h"
#include "launch/estimate.h"

namespace tessera::bench {
namespace {

std::vector<Speed> time_on_cpu(const std::set<std::string>& only) {
  const auto device = make_device(DeviceKind::cpu, {0, 2});
  std::vector<Speed> speeds;
  const auto use = [&](const Speed& speed) { speeds.push_back(speed); };
  EXPECT_EQ(time_kernels(*device, small_sizes(), {1e-5, 1}, only, use), 0);
  EXPECT_EQ(device->memory().in_use, 0U);
  return speeds;
}

TEST(BenchKernels, TimesEverySlot) {
  std::set<std::string> timed;
  for (const Speed& speed : time_on_cpu({})) {
    timed.insert(speed.slot);
    EXPECT_FALSE(speed.candidate.empty()) << speed.slot;
    EXPECT_GT(speed.seconds, 0) << speed.slot;
    EXPECT_NE(speed.bytes > 0, speed.flop > 0) << speed.slot;
    EXPECT_EQ(speed.copy_rate > 0, speed.bytes > 0) << speed.slot;
  }
  ASSERT_FALSE(KernelSlot::all().empty());
  for (const KernelSlot* slot : KernelSlot::all())
    EXPECT_TRUE(timed.contains(slot->name())) << "launch/bench has no case for slot " << slot->name();
}

// A kernel that cannot run is said and counted, and does not keep the others from being timed.
TEST(BenchKernels, GoesOnAfterAFailure) {
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  device->wished_kernels["add"] = "none such";
  std::set<std::string> timed;
  const int failures = time_kernels(*device, small_sizes(), {1e-5, 1}, {"add", "rope"},
                                    [&](const Speed& speed) { timed.insert(speed.slot); });
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(timed, std::set<std::string>{"rope"});
}

TEST(BenchKernels, CountsWhatAKernelMustMove) {
  const std::vector<Speed> speeds = time_on_cpu({"swiglu_backward", "add", "adamw", "matmul"});
  const auto find = [&](const std::string& slot) {
    return *std::find_if(speeds.begin(), speeds.end(), [&](const Speed& one) { return one.slot == slot; });
  };
  const ModelSizes m = small_sizes().models.front();
  EXPECT_EQ(find("swiglu_backward").bytes, static_cast<double>(10 * m.ffn * m.tokens));
  EXPECT_EQ(find("add").bytes, static_cast<double>(6 * m.hidden * m.tokens));
  EXPECT_EQ(find("adamw").bytes, static_cast<double>(28 * 2 * m.ffn * m.hidden));
  EXPECT_EQ(find("matmul").flop, static_cast<double>(2 * m.tokens * m.hidden * m.qkv()));
  EXPECT_EQ(std::count_if(speeds.begin(), speeds.end(), [](const Speed& one) { return one.slot == "rope"; }),
            0);
}

// configs/bench-1b.yaml is for one GPU of 80 GB.
TEST(Bench1B, FitsOnAnH100) {
  const Config c = load_config(TESSERA_SOURCE_DIR "/configs/bench-1b.yaml");
  const ReleaseConfig release = make_release_config(find_family(c.model.family), *c.model.keys, "bench-1b");
  ModelOptions options;
  options.compute = DType::bf16;
  options.positions = c.data.seq_len;
  const BatchShape batch{c.train.global_batch, c.train.micro_batch, c.data.seq_len};
  const std::size_t bytes = estimate_memory(
      release.spec, options, {}, batch, plan_reduce_groups(batch.global_batch, batch.micro_batch, 1, 1, 0));
  EXPECT_LT(static_cast<double>(bytes), 72e9);
  EXPECT_GT(static_cast<double>(bytes), 20e9);  // weights, gradients and moments alone
}

}  // namespace
}  // namespace tessera::bench
