// Runs every op case, and checks that the cases reach every kernel slot.

#include <gtest/gtest.h>

#include "core/tensor/kernel.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

class Ops : public testing::TestWithParam<OpCase> {};

TEST_P(Ops, Fp32) {
  check_case(GetParam(), DType::f32, cpu_backend());
}

class OpsInBf16 : public Ops {};

TEST_P(OpsInBf16, Bf16) {
  check_case(GetParam(), DType::bf16, cpu_backend());
}

std::vector<OpCase> bf16_cases() {
  std::vector<OpCase> cases = all_cases();
  std::erase_if(cases, [](const OpCase& test) { return !test.bf16; });
  return cases;
}

std::string case_name(const testing::TestParamInfo<OpCase>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(Cpu, Ops, testing::ValuesIn(all_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Cpu, OpsInBf16, testing::ValuesIn(bf16_cases()), case_name);

TEST(Slots, EveryOneHasACpuKernelAndACase) {
  std::set<std::string> used;
  for (const OpCase& test : all_cases()) used.merge(slots_used(test));
  ASSERT_FALSE(KernelSlot::all().empty());
  for (const KernelSlot* slot : KernelSlot::all()) {
    bool on_cpu = false;
    for (const auto& entry : slot->entries()) on_cpu = on_cpu || entry.device == DeviceKind::cpu;
    EXPECT_TRUE(on_cpu) << "slot " << slot->name() << " has no CPU kernel";
    EXPECT_TRUE(used.contains(slot->name())) << "slot " << slot->name() << " has no op case";
  }
}

// The GuardedDevice must see what it is there for.
TEST(GuardedDevice, NoticesAWriteBeyondABuffer) {
  GuardedDevice device(1);
  {
    const Tensor t = Tensor::empty({3}, DType::f32, device);
    static_cast<volatile float*>(t.data<float>())[3] = 1;
  }
  EXPECT_EQ(device.violations(), 1);
}

}  // namespace
}  // namespace tessera::testing_ops
