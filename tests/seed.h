// The seed of random tests: TESSERA_TEST_SEED, or always the same one. Tests print it when they fail.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace tessera {

inline std::uint64_t test_seed() {
  const char* wished = std::getenv("TESSERA_TEST_SEED");
  return wished != nullptr ? std::strtoull(wished, nullptr, 10) : 20240607;
}

}  // namespace tessera
