// Named faults that tests switch on to prove that a check notices them.
//
// In a build without TESSERA_MUTANTS, which is every build that users get, `mutant` is constantly false.
#pragma once

#include <string_view>

#ifdef TESSERA_MUTANTS
#include <cstdlib>
#endif

namespace tessera {

// Whether the environment variable TESSERA_MUTANT names this fault.
#ifdef TESSERA_MUTANTS
inline bool mutant(std::string_view name) {
  const char* chosen = std::getenv("TESSERA_MUTANT");
  return chosen != nullptr && name == chosen;
}
#else
constexpr bool mutant(std::string_view /*name*/) {
  return false;
}
#endif

}  // namespace tessera
