// Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011).
//
// A number is a pure function of (key, counter): any thread, rank or layout draws the same. Stateless.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace tessera {

class ThreadPool;

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high);

// What a stream of numbers is for: the seed and a name, hashed to one 64-bit key.
struct Key {
  std::uint64_t value;
  Key(std::uint64_t seed, std::string_view name);
};

// Uniform in [0, 1) with 24 bits, number `index` of the stream.
float uniform(Key key, std::uint64_t index);

// out[i] = standard_deviation × normal number `first + i` of the stream (Box–Muller, two numbers per
// counter).
void fill_normal(std::span<float> out, Key key, float standard_deviation, ThreadPool& threads,
                 std::uint64_t first = 0);
// The same on the calling thread alone.
void fill_normal(std::span<float> out, Key key, float standard_deviation, std::uint64_t first);

}  // namespace tessera
