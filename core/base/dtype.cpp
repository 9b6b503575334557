#include "core/base/dtype.h"

#include <array>
#include <cassert>
#include <cmath>
#include <string>

#include "core/base/error.h"

namespace tessera {
namespace {

struct Info {
  std::string_view name;
  std::size_t bits;
  bool floating;
};
constexpr std::array<Info, 14> infos{{{"F32", 32, true},
                                      {"BF16", 16, true},
                                      {"F16", 16, true},
                                      {"F64", 64, true},
                                      {"I32", 32, false},
                                      {"I64", 64, false},
                                      {"U16", 16, false},
                                      {"U32", 32, false},
                                      {"U8", 8, false},
                                      {"I8", 8, false},
                                      {"F8_E4M3", 8, true},
                                      {"F8_E5M2", 8, true},
                                      {"F8_E8M0", 8, true},
                                      {"F4", 4, true}}};

const Info& info(DType dtype) {
  return infos[static_cast<std::size_t>(dtype)];
}

}  // namespace

std::size_t bits(DType dtype) {
  return info(dtype).bits;
}

std::size_t bytes_per_element(DType dtype) {
  assert(bits(dtype) % 8 == 0);
  return bits(dtype) / 8;
}

bool is_floating(DType dtype) {
  return info(dtype).floating;
}

std::string_view name(DType dtype) {
  return info(dtype).name;
}

DType dtype_from_name(std::string_view name) {
  for (std::size_t i = 0; i < infos.size(); ++i)
    if (infos[i].name == name) return static_cast<DType>(i);
  fail("unknown dtype '{}'", name);
}

float f16_to_float(std::uint16_t raw) {
  const float sign = (raw & 0x8000U) != 0 ? -1.0F : 1.0F;
  const int exponent = (raw >> 10) & 0x1f;
  const int mantissa = raw & 0x3ff;
  if (exponent == 0x1f) return mantissa != 0 ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

std::uint16_t float_to_f16(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000U : 0U;
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00U);
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (magnitude < 6.103515625e-05F)  // 2^-14: subnormal, in units of 2^-24
    return static_cast<std::uint16_t>(sign |
                                      static_cast<std::uint16_t>(std::nearbyint(std::ldexp(magnitude, 24))));
  int exponent = 0;
  const float fraction = std::frexp(magnitude, &exponent);                           // in [0.5, 1)
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));  // in [1024, 2048]
  return static_cast<std::uint16_t>(sign + ((exponent + 13) << 10) + mantissa);  // carry moves the exponent
}

}  // namespace tessera
