// A keyed permutation of [0, n) that needs no table. Pure functions; any thread.
#pragma once

#include <cstdint>

namespace tessera {

// The image of `i` under the permutation of [0, n) that (seed, epoch) picks: a four-round Feistel network
// over the next even power of two, walked until it lands inside.
std::uint64_t permuted(std::uint64_t i, std::uint64_t n, std::uint64_t seed, std::uint64_t epoch);

}  // namespace tessera
