#include "core/base/philox.h"

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

void fill_normal(std::span<float> out, Key key, float standard_deviation, std::uint64_t first) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t index = first + i;
    const auto bits = philox(key.value, index / 2, 1);
    // (0, 1]: the logarithm stays finite.
    const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1p-32;
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits[1]) * 0x1p-32;
    const double radius = std::sqrt(-2.0 * std::log(u));
    const double z = radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
    out[i] = standard_deviation * static_cast<float>(z);
  }
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
