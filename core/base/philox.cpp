#include "core/base/philox.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <string>

#include "core/base/hash.h"
#include "core/base/thread_pool.h"

namespace tessera {

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low,
                                    std::uint64_t counter_high) {
  auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  std::array<std::uint32_t, 4> c{low(counter_low), high(counter_low), low(counter_high), high(counter_high)};
  std::uint32_t k0 = low(key);
  std::uint32_t k1 = high(key);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ULL * c[0];
    const std::uint64_t p1 = 0xCD9E8D57ULL * c[2];
    c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

Key::Key(std::uint64_t seed, std::string_view name) {
  std::string text(reinterpret_cast<const char*>(&seed), sizeof seed);
  text += name;
  value = xxh3_64(bytes_of(text));
}

float uniform(Key key, std::uint64_t index) {
  return static_cast<float>(philox(key.value, index, 0)[0] >> 8) * 0x1p-24F;
}

namespace {

// The definition of normal number `index` of a stream, before its scale.
float exact_normal(Key key, std::uint64_t index) {
  const auto bits = philox(key.value, index / 2, 1);
  // (0, 1]: the logarithm stays finite.
  const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1p-32;
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits[1]) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u));
  return static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

// Blocks of counters are worked on together, in loops that compilers make vectors of.
constexpr std::size_t counters = 64;
template <class T>
using Each = std::array<T, counters>;

// √(−2 log(u 2⁻³²)), to 2⁻⁴⁰ of itself.
void radii(const Each<double>& u, Each<double>& radius) {
  constexpr std::uint64_t mantissa = 0xfffffffffffff;
  constexpr std::uint64_t to_carry = 0x95f619980c434;  // added to a mantissa above √2, it carries
  for (std::size_t i = 0; i < counters; ++i) {
    // u = m 2ᵉ with m in (1/√2, √2]; log m = 2 artanh((m − 1) / (m + 1)), by its series.
    const auto bits = std::bit_cast<std::uint64_t>(u[i]);
    const std::uint64_t above = ((bits & mantissa) + to_carry) >> 52;
    const auto e = static_cast<std::int32_t>((bits >> 52) + above) - 1023 - 32;
    const auto m = std::bit_cast<double>((bits & mantissa) | ((1023 - above) << 52));
    const double s = (m - 1.0) / (m + 1.0);
    const double t = s * s;
    double p = 1.0 / 17;
    p = p * t + 1.0 / 15;
    p = p * t + 1.0 / 13;
    p = p * t + 1.0 / 11;
    p = p * t + 1.0 / 9;
    p = p * t + 1.0 / 7;
    p = p * t + 1.0 / 5;
    p = p * t + 1.0 / 3;
    p = p * t + 1.0;
    radius[i] = std::sqrt(-2.0 * (2.0 * s * p + e * std::numbers::ln2));
  }
}

// cos and sin of turn 2⁻³² turns, to 2⁻⁴⁰ of themselves, by their series about the nearest quarter.
void directions(const Each<std::uint32_t>& turn, Each<double>& cosine, Each<double>& sine) {
  for (std::size_t i = 0; i < counters; ++i) {
    const std::uint32_t quarter = (turn[i] + 0x20000000U) >> 30;
    const auto rest = static_cast<std::int32_t>(turn[i] - (quarter << 30));
    const double x = rest * (2.0 * std::numbers::pi * 0x1p-32);
    const double t = x * x;
    double c = 1.0 / 479001600;
    c = c * t - 1.0 / 3628800;
    c = c * t + 1.0 / 40320;
    c = c * t - 1.0 / 720;
    c = c * t + 1.0 / 24;
    c = c * t - 1.0 / 2;
    c = c * t + 1.0;
    double s = 1.0 / 6227020800;
    s = s * t - 1.0 / 39916800;
    s = s * t + 1.0 / 362880;
    s = s * t - 1.0 / 5040;
    s = s * t + 1.0 / 120;
    s = s * t - 1.0 / 6;
    s = s * t * x + x;
    const double sign = quarter % 4 < 2 ? 1.0 : -1.0;
    cosine[i] = sign * (quarter % 2 == 0 ? c : -s);
    sine[i] = sign * (quarter % 2 == 0 ? s : c);
  }
}

// Numbers 2c and 2c + 1 of counters c from `first` on. Computed to 2⁻³⁸, which nearly always says which float
// the exact number rounds to: `sure` tells of each counter whether it does. What the exact number's own
// rounding adds is below 2⁻⁴⁸ of the radius.
void likely_normals(std::uint64_t key, std::uint64_t first, Each<std::array<float, 2>>& out,
                    Each<bool>& sure) {
  Each<double> u;
  Each<double> radius;
  Each<double> cosine;
  Each<double> sine;
  Each<std::uint32_t> turn;
  for (std::size_t i = 0; i < counters; ++i) {
    const auto bits = philox(key, first + i, 1);
    u[i] = static_cast<double>(bits[0]) + 1.0;
    turn[i] = bits[1];
  }
  radii(u, radius);
  directions(turn, cosine, sine);
  for (std::size_t i = 0; i < counters; ++i) {
    bool same = radius[i] > 0;  // of 0 the sign is not told
    for (int k = 0; k < 2; ++k) {
      const double z = radius[i] * (k == 0 ? cosine[i] : sine[i]);
      const double slack = std::abs(z) * 0x1p-38 + radius[i] * 0x1p-48;
      out[i][k] = static_cast<float>(z - slack);
      same = same && out[i][k] == static_cast<float>(z + slack);
    }
    sure[i] = same;
  }
}

}  // namespace

void fill_normal(std::span<float> out, Key key, float standard_deviation, std::uint64_t first) {
  const auto exactly = [&](std::size_t i) { out[i] = standard_deviation * exact_normal(key, first + i); };
  std::size_t at = 0;
  if (first % 2 == 1 && !out.empty()) exactly(at++);
  Each<std::array<float, 2>> numbers;
  Each<bool> sure;
  for (; out.size() - at >= 2 * counters; at += 2 * counters) {
    likely_normals(key.value, (first + at) / 2, numbers, sure);
    for (std::size_t i = 0; i < counters; ++i)
      for (std::size_t k = 0; k < 2; ++k)
        if (sure[i])
          out[at + 2 * i + k] = standard_deviation * numbers[i][k];
        else
          exactly(at + 2 * i + k);
  }
  for (; at < out.size(); ++at) exactly(at);
}

void fill_normal(std::span<float> out, Key key, float standard_deviation, ThreadPool& threads,
                 std::uint64_t first) {
  threads.parallel_blocks(
      static_cast<std::int64_t>(out.size()), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
        fill_normal(out.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), key,
                    standard_deviation, first + static_cast<std::uint64_t>(begin));
      });
}

}  // namespace tessera
