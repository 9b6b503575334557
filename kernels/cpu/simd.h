// Loops that the compiler turns into vector code, with sums whose order is fixed by the length alone.
//
// Internal to kernels/cpu. Sums keep 16 lanes and join them in a fixed tree, so a row's result depends on the
// row only.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/base/dtype.h"
#include "core/tensor/device.h"
#include "core/tensor/tensor.h"

namespace tessera::cpu {

inline constexpr int lanes = 16;

// Calls f with a value of the C++ type of `dtype`, which must be f32 or bf16.
template <class F>
void visit(DType dtype, F f) {
  if (dtype == DType::f32)
    f(float{});
  else
    f(bf16{});
}

template <class T>
inline float load(const T& value) {
  return static_cast<float>(value);
}

inline float join(float* lane) {
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// Σ f(i) for i in [0, n).
template <class F>
inline float sum(std::int64_t n, F f) {
  float lane[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int j = 0; j < lanes; ++j) lane[j] += f(i + j);
  for (int j = 0; i < n; ++i, ++j) lane[j] += f(i);
  return join(lane);
}

// The largest of `start` and x[i].
inline float maximum(const float* x, std::int64_t n, float start) {
  float lane[lanes];
  std::fill_n(lane, lanes, start);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int j = 0; j < lanes; ++j) lane[j] = lane[j] > x[i + j] ? lane[j] : x[i + j];
  for (; i < n; ++i) lane[0] = std::max(lane[0], x[i]);
  return *std::max_element(lane, lane + lanes);
}

// e^x within 2 units in the last place over [-87, 88]; outside, the value at the nearer end. A polynomial
// after reduction by powers of two (Cephes' coefficients), without branches.
inline float exponential(float x) {
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  constexpr float magic = 12582912.0F;  // 1.5 · 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341F + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float value = p * (r * r) + r + 1.0F;
  const std::uint32_t power = std::bit_cast<std::uint32_t>(shifted) << 23;  // n's low bits, at the exponent
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) + power);
}

inline float sigmoid(float x) {
  return 1.0F / (1.0F + exponential(-x));
}

}  // namespace tessera::cpu
