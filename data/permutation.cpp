#include "data/permutation.h"

#include <bit>
#include <cassert>

#include "core/base/philox.h"

namespace tessera {

std::uint64_t permuted(std::uint64_t i, std::uint64_t n, std::uint64_t seed, std::uint64_t epoch) {
  assert(i < n);
  if (n <= 1) return 0;
  const auto half = static_cast<int>((std::bit_width(n - 1) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  std::uint64_t value = i;
  do {  // at most four values of the network's domain per value of [0, n), so the walk is short
    std::uint64_t left = value >> half;
    std::uint64_t right = value & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const auto bits = philox(seed, right | (round << 56), epoch);
      const std::uint64_t f = (static_cast<std::uint64_t>(bits[1]) << 32 | bits[0]) & mask;
      const std::uint64_t next = left ^ f;
      left = right;
      right = next;
    }
    value = left << half | right;
  } while (value >= n);
  return value;
}

}  // namespace tessera
