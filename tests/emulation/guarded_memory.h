// Host memory between guard zones, for emulated devices. Any thread may call: all of a process are known
// here.
#pragma once

#include <cstddef>
#include <optional>

namespace tessera::emulation {

// 64-byte aligned and filled with bytes that make NaN in every float format; from a gigabyte on, or where
// `sparse`, a mapping of zeros, which takes memory only where it is written. nullptr where there is none.
std::byte* make_guarded(std::size_t bytes, bool sparse = false);
// Whether the zones around it are untouched. With AddressSanitizer always: it stops at the access.
bool guards_intact(const std::byte* address, std::size_t bytes);
// No access is expected any more.
void retire_guarded(std::byte* address, std::size_t bytes);
void free_guarded(std::byte* address, std::size_t bytes);

struct GuardedRange {
  const std::byte* begin = nullptr;
  std::size_t bytes = 0;
  bool sparse = false;
  bool retired = false;
};
// The memory made here, whoever asked for it, that holds this address or ends there.
std::optional<GuardedRange> guarded_at(const void* address);

}  // namespace tessera::emulation
