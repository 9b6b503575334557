// Which of an op's candidates runs: what is wished, what can, and what stands in with a word in the log.

#include "core/tensor/kernel.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace tessera {
namespace {

struct Size {
  int size;
};
int ran = 0;
template <int which>
void run(const Size&, Workspace) {
  ran = which;
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
    kernel->add({.device = DeviceKind::cpu, .name = "hidden", .run = run<2>, .on_request = true});
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
  EXPECT_EQ(device->chosen_kernels.at("kernel_choice_test"), "slow");
}

TEST_F(KernelChoice, FollowsAWishOrFails) {
  device->wished_kernels["kernel_choice_test"] = "hidden";
  EXPECT_EQ(which(2), 2);
  device->wished_kernels["kernel_choice_test"] = "slow";
  testing::internal::CaptureStderr();
  EXPECT_EQ(which(2), 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "what was asked for needs no warning";
  device->wished_kernels["kernel_choice_test"] = "fast";
  try {
    which(3);
    FAIL() << "'slow' must not stand in for a wish";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "no kernel for op 'kernel_choice_test' on device cpu named 'fast' takes these sizes; this build "
        "has: slow, on request; hidden, on request; fast, for even sizes (config key `kernels`)");
  }
}

}  // namespace
}  // namespace tessera
