// Helpers of the emulator's own tests: run a kernel under several orders, and hear what is wrong with it.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/base/error.h"
#include "kernels/cuda/kernel.h"
#include "tests/emulation/device.h"

namespace tessera::emulation {

constexpr int orders = 5;

// The message of the Error that `run(device)` throws on a device of this order; "" if it throws none.
template <class Run>
std::string fault_of(std::uint64_t seed, Run run) {
  EmulatedCudaDevice device({}, seed);
  try {
    run(device);
    device.stream().synchronize();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Reported under every order, with these words in it.
template <class Run>
void expect_fault(const std::string& words, Run run) {
  for (std::uint64_t seed = 0; seed < orders; ++seed) {
    const std::string fault = fault_of(seed, run);
    EXPECT_NE(fault.find(words), std::string::npos) << "seed " << seed << ": '" << fault << "'";
    EXPECT_EQ(fault.find("emulated "), 0U) << fault;
  }
}

template <class Run>
void expect_right(Run run) {
  for (std::uint64_t seed = 0; seed < orders; ++seed) EXPECT_EQ(fault_of(seed, run), "") << "seed " << seed;
}

inline Tensor floats(Device& device, std::int64_t n) {
  return Tensor::zeros({n}, DType::f32, device);
}

inline std::vector<float> on_host(const Tensor& x) {
  std::vector<float> values(static_cast<std::size_t>(x.numel()));
  x.to_host(values.data());
  return values;
}

}  // namespace tessera::emulation
