// Every op case on a real GPU: against the double reference, twice for the same bits; the kernels that are
// chosen there, and the plain ones that stand in for them in emulation.

#include <gtest/gtest.h>

#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

constexpr const char* with_plain_twins[] = {"matmul", "grouped_matmul", "attention_forward",
                                            "attention_backward"};

Backend gpu(bool plain) {
  Backend backend;
  backend.devices = 2;
  backend.make = [plain](int) {
    std::unique_ptr<Device> device = make_device(DeviceKind::cuda);
    for (const char* slot : with_plain_twins)
      if (plain) device->wished_kernels[slot] = "plain";
    return device;
  };
  return backend;
}

class GpuOps : public testing::TestWithParam<std::tuple<OpCase, DType, bool>> {};

TEST_P(GpuOps, Case) {
  const auto& [test, dtype, plain] = GetParam();
  check_case(test, dtype, gpu(plain));
}

std::vector<std::tuple<OpCase, DType, bool>> all() {
  std::vector<std::tuple<OpCase, DType, bool>> list;
  for (const OpCase& test : all_cases())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool plain : {true, false})
        if (dtype == DType::f32 || test.bf16) list.emplace_back(test, dtype, plain);
  return list;
}

std::string name_of(const testing::TestParamInfo<std::tuple<OpCase, DType, bool>>& one) {
  const auto& [test, dtype, plain] = one.param;
  return test.name + (dtype == DType::bf16 ? "_bf16" : "_fp32") + (plain ? "_plain" : "_chosen");
}

INSTANTIATE_TEST_SUITE_P(Gpu, GpuOps, testing::ValuesIn(all()), name_of);

}  // namespace
}  // namespace tessera::testing_ops
