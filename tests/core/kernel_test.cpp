// Which of an op's candidates runs: what is wished, what can, and what stands in with a word in the log.

#include "core/tensor/kernel.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace tessera {
namespace {

struct Size {
  int size;
};
struct Bytes {
  Tensor result;
};
void nothing(const Bytes&, Workspace) {}
int ran = 0;
template <int which>
void run(const Size&, Workspace) {
  ran = which;
}
bool is_small(const Size& args) {
  return args.size < 10;
}
bool is_even(const Size& args) {
  return args.size % 2 == 0;
}

// The slow one is registered first: the order of linking must not let it win.
const Kernel<Size>& slot() {
  static const Kernel<Size>* made = [] {
    auto* kernel = new Kernel<Size>("kernel_choice_test");  // the registry of slots keeps its address
    kernel->add(
        {.device = DeviceKind::cpu, .name = "slow", .run = run<1>, .on_request = true, .stands_in = true});
    kernel->add({.device = DeviceKind::cpu,
                 .name = "hidden",
                 .run = run<2>,
                 .can_run = is_small,
                 .on_request = true});
    kernel->add({.device = DeviceKind::cpu,
                 .name = "fast",
                 .run = run<3>,
                 .can_run = is_even,
                 .takes = "even sizes"});
    return kernel;
  }();
  return *made;
}

class KernelChoice : public testing::Test {
 protected:
  int which(int size) {
    ran = 0;
    slot()({size}, *device);
    return ran;
  }
  std::unique_ptr<Device> device = make_device(DeviceKind::cpu);
};

TEST_F(KernelChoice, TakesTheFirstThatCanUnasked) {
  EXPECT_EQ(which(2), 3);
  EXPECT_EQ(device->chosen_kernels.at("kernel_choice_test"), "fast");
}

TEST_F(KernelChoice, StandsInAndSaysSoOnce) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(which(3), 1);
  EXPECT_EQ(which(5), 1);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(
      log.find("kernel_choice_test on cpu: kernel 'slow' stands in, which is slow; 'fast' takes even sizes "
               "(`kernels: {kernel_choice_test: slow}` asks for it)"),
      std::string::npos)
      << log;
  EXPECT_EQ(log.find("stands in"), log.rfind("stands in"));
  EXPECT_FALSE(device->chosen_kernels.contains("kernel_choice_test"))
      << "kept in a checkpoint, it would be wished for, and run without a word";
}

TEST_F(KernelChoice, FollowsAWishOrFails) {
  device->wished_kernels["kernel_choice_test"] = "hidden";
  EXPECT_EQ(which(2), 2);
  device->wished_kernels["kernel_choice_test"] = "slow";
  testing::internal::CaptureStderr();
  EXPECT_EQ(which(2), 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "what was asked for needs no warning";
  // As a resumed run wishes for what was chosen: no stronger than the default.
  device->wished_kernels["kernel_choice_test"] = "fast";
  EXPECT_EQ(which(2), 3);
  EXPECT_EQ(which(3), 1);
  device->wished_kernels["kernel_choice_test"] = "hidden";
  try {
    which(10);
    FAIL() << "'slow' must not stand in for a wish";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "no kernel for op 'kernel_choice_test' on device cpu named 'hidden' takes these sizes; this build "
        "has: slow, on request; hidden, on request; fast, for even sizes (config key `kernels`)");
  }
}

// Where sizes decide, what is kept in a checkpoint is the candidate that is tried first: wishing for the
// other would give it sizes that it did not have.
TEST_F(KernelChoice, NotesTheFirstTriedWhereSizesDecide) {
  static Kernel<Size> kernel("kernel_mixed_test");  // the registry of slots keeps its address
  kernel.add({.device = DeviceKind::cpu, .name = "even", .run = run<1>, .can_run = is_even});
  kernel.add({.device = DeviceKind::cpu, .name = "any", .run = run<2>});
  for (const int size : {3, 2, 3, 2, 5}) kernel({size}, *device);
  EXPECT_EQ(device->chosen_kernels.at("kernel_mixed_test"), "even");
  device->wished_kernels["kernel_mixed_test"] = "any";
  kernel({2}, *device);
  EXPECT_EQ(device->chosen_kernels.at("kernel_mixed_test"), "any");
}

// A dry run takes the choice, and the refusals, of the device that it stands for.
TEST(KernelDryRun, AsksTheDeviceItStandsFor) {
  static Kernel<Bytes> kernel("kernel_dry_run_test");  // the registry of slots keeps its address
  kernel.add(
      {.device = DeviceKind::cpu, .name = "roomy", .run = nothing, .workspace_bytes = [](const Bytes& args) {
         return 2 * args.result.bytes();
       }});
  kernel.add({.device = DeviceKind::cpu,
              .name = "strict",
              .run = nothing,
              .workspace_bytes = [](const Bytes& args) -> std::size_t {
                fail("no room on device {}", args.result.device().modelled().ordinal());
              },
              .on_request = true});
  const auto device = make_device(DeviceKind::cpu, {.ordinal = 3});
  const auto peak = [&] {
    const auto meta = make_device(DeviceKind::meta, {.stands_for = device.get()});
    const Tensor result = Tensor::empty({100}, DType::u8, *meta);
    kernel({result}, *meta);
    return meta->memory().peak;
  };
  EXPECT_EQ(peak(), 300U);
  EXPECT_TRUE(device->chosen_kernels.empty());
  device->wished_kernels["kernel_dry_run_test"] = "strict";
  try {
    peak();
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no room on device 3");
  }
  device->wished_kernels["kernel_dry_run_test"] = "fast";
  EXPECT_THROW(peak(), Error);
}

}  // namespace
}  // namespace tessera
