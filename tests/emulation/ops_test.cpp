// Every op case on the emulated device under three orders.

#include <gtest/gtest.h>

#include "tests/emulation/device.h"
#include "tests/kernels/op_case.h"
#include "tests/seed.h"

namespace tessera::testing_ops {
namespace {

Backend emulated_backend() {
  return {.devices = 3,
          .make =
              [](int index) {
                return std::make_unique<emulation::EmulatedCudaDevice>(
                    DeviceOptions{}, 3 * test_seed() + static_cast<std::uint64_t>(index));
              },
          .violations =
              [](const Device& device) {
                return static_cast<const emulation::EmulatedCudaDevice&>(device).violations();
              },
          .memory_as_meta = true};
}

class Ops : public testing::TestWithParam<OpCase> {};

TEST_P(Ops, Fp32) {
  check_case(GetParam(), DType::f32, emulated_backend());
}

class OpsInBf16 : public Ops {};

TEST_P(OpsInBf16, Bf16) {
  check_case(GetParam(), DType::bf16, emulated_backend());
}

std::vector<OpCase> bf16_cases() {
  std::vector<OpCase> cases = all_cases();
  std::erase_if(cases, [](const OpCase& test) { return !test.bf16; });
  return cases;
}

std::string case_name(const testing::TestParamInfo<OpCase>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(Emulated, Ops, testing::ValuesIn(all_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Emulated, OpsInBf16, testing::ValuesIn(bf16_cases()), case_name);

}  // namespace
}  // namespace tessera::testing_ops
