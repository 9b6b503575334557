// Element types as runtime values. Plain values; any thread.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tessera {

// Order and values are internal; files store names.
enum class DType : std::uint8_t {
  f32,
  bf16,
  f16,
  f64,
  i32,
  i64,
  u16,
  u32,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f4_e2m1
};

// Bits of one element; f4_e2m1 has 4, two to a byte.
std::size_t bits(DType dtype);
// Bytes of one element of a type that fills whole bytes.
std::size_t bytes_per_element(DType dtype);
bool is_floating(DType dtype);

// Names as in safetensors ("F32", "BF16"); `dtype_from_name` throws Error on an unknown name.
std::string_view name(DType dtype);
DType dtype_from_name(std::string_view name);

// bfloat16: the upper half of an fp32. Conversion rounds to nearest even; a NaN stays a NaN.
struct bf16 {
  std::uint16_t raw = 0;
  bf16() = default;
  constexpr explicit bf16(float value) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    const std::uint32_t quiet = (u >> 16) | 0x40U;
    raw = static_cast<std::uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
  }
  constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(raw) << 16);
  }
};

// IEEE half precision, for files only: no kernel computes in it.
float f16_to_float(std::uint16_t raw);
std::uint16_t float_to_f16(float value);  // to nearest even

}  // namespace tessera
