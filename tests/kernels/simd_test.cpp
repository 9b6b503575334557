// The vector helpers of the CPU kernels, and the CPU device's memory.

#include "kernels/cpu/simd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/tensor/device.h"
#include "kernels/cpu/gemm.h"

namespace tessera {
namespace {

// Every 97th float of either sign whose exponential is a normal number: 2 units in the last place.
TEST(Simd, ExponentialIsWithinTwoUnits) {
  double worst = 0;
  for (const std::uint32_t sign : {0U, 0x80000000U})
    for (std::uint32_t u = 0x20000000U; u < std::bit_cast<std::uint32_t>(87.0F); u += 97) {
      const auto x = std::bit_cast<float>(u | sign);
      const double want = std::exp(static_cast<double>(x));
      const double unit = std::ldexp(1.0, std::ilogb(want) - 23);
      worst = std::max(worst, std::fabs(static_cast<double>(cpu::exponential(x)) - want) / unit);
    }
  EXPECT_LT(worst, 2);
  EXPECT_EQ(cpu::exponential(0.0F), 1.0F);
  EXPECT_LT(cpu::exponential(-1e30F), 1e-37F);
  EXPECT_LT(cpu::exponential(-INFINITY), 1e-37F);
  EXPECT_TRUE(std::isnan(cpu::exponential(NAN)));
}

TEST(Simd, SumsAndMaximaOfEveryShortLength) {
  std::vector<float> x(70);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 29 % 71) - 40);
  for (std::int64_t n = 0; n <= 70; ++n) {
    float total = 0;
    float top = -INFINITY;
    for (std::int64_t i = 0; i < n; ++i) {
      total += x[static_cast<std::size_t>(i)];
      top = std::max(top, x[static_cast<std::size_t>(i)]);
    }
    EXPECT_EQ(cpu::sum(n, [&](std::int64_t i) { return x[static_cast<std::size_t>(i)]; }), total);
    EXPECT_EQ(cpu::maximum(x.data(), n, -INFINITY), top);
  }
}

// bf16 to nearest even, halves included.
TEST(Simd, Bf16RoundsToNearestEven) {
  const auto rounded = [](std::uint32_t bits) { return bf16(std::bit_cast<float>(bits)).raw; };
  EXPECT_EQ(rounded(0x3f808000U), 0x3f80);
  EXPECT_EQ(rounded(0x3f818000U), 0x3f82);
  EXPECT_EQ(rounded(0x3f808001U), 0x3f81);
  EXPECT_EQ(rounded(0xff800000U), 0xff80);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(NAN))));
}

// A beta of 0 ignores what c held, even NaN.
TEST(Gemm, OverwritesWhateverWasThere) {
  const std::vector<float> a(6, 1);
  std::vector<float> c(4, NAN);
  cpu::gemm_tile(false, false, 2, 2, 3, 1, a.data(), 3, a.data(), 2, 0, c.data(), 2);
  EXPECT_EQ(c, std::vector<float>(4, 3));
}

TEST(CpuDevice, AlignsReusesAndCounts) {
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  void* first = device->allocate(1000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % 64, 0U);
  EXPECT_EQ(device->memory().in_use, 1000U);
  device->release(first, 1000);
  EXPECT_EQ(device->memory().in_use, 0U);
  EXPECT_EQ(device->memory().peak, 1000U);
  void* second = device->allocate(1001);  // of the same size class
  EXPECT_EQ(second, first);
  device->release(second, 1001);
  EXPECT_EQ(device->allocate(0), nullptr);
  void* large = device->allocate(std::size_t{3} << 20);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large) % (std::size_t{1} << 21), 0U);
  device->release(large, std::size_t{3} << 20);
}

}  // namespace
}  // namespace tessera
