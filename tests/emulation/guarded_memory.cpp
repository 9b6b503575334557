#include "tests/emulation/guarded_memory.h"

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace tessera::emulation {
namespace {

constexpr std::size_t guard = 4096;
constexpr int guard_byte = 0xA5;
constexpr std::size_t sparse_from = std::size_t{1} << 30;

#ifdef __SANITIZE_ADDRESS__
constexpr bool watched_by_sanitizer = true;
void forbid(const void* address, std::size_t bytes) {
  __asan_poison_memory_region(address, bytes);
}
void allow(const void* address, std::size_t bytes) {
  __asan_unpoison_memory_region(address, bytes);
}
#else
constexpr bool watched_by_sanitizer = false;
void forbid(const void*, std::size_t) {}
void allow(const void*, std::size_t) {}
#endif

std::size_t whole(std::size_t bytes) {
  return (bytes + 2 * guard + 63) / 64 * 64;
}

// Of the whole process, as ranks are threads and copy from each other.
class Ranges {
 public:
  void add(const GuardedRange& range) {
    const std::lock_guard lock(mutex_);
    all_[range.begin] = range;
  }
  void retire(const std::byte* begin) {
    const std::lock_guard lock(mutex_);
    all_.at(begin).retired = true;
  }
  GuardedRange remove(const std::byte* begin) {
    const std::lock_guard lock(mutex_);
    return all_.extract(begin).mapped();
  }
  std::optional<GuardedRange> find(const std::byte* address) {
    const std::lock_guard lock(mutex_);
    const auto above = all_.upper_bound(address);
    if (above == all_.begin()) return std::nullopt;
    const GuardedRange& range = std::prev(above)->second;
    if (address > range.begin + range.bytes) return std::nullopt;
    return range;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, GuardedRange> all_;
};
Ranges& ranges() {
  static auto* all = new Ranges;  // devices may outlive statics
  return *all;
}

bool intact(const std::byte* zone) {
  static const auto untouched = [] {
    std::array<std::byte, guard> bytes{};
    bytes.fill(std::byte{guard_byte});
    return bytes;
  }();
  return std::memcmp(zone, untouched.data(), guard) == 0;
}

}  // namespace

std::byte* make_guarded(std::size_t bytes, bool sparse) {
  void* base = nullptr;
  sparse = sparse || bytes >= sparse_from;
  if (sparse) {
    base = mmap(nullptr, whole(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
    if (base == MAP_FAILED) return nullptr;
  } else {
    base = std::aligned_alloc(64, whole(bytes));
    if (base == nullptr) return nullptr;
    std::memset(base, 0xff, whole(bytes));
  }
  std::byte* address = static_cast<std::byte*>(base) + guard;
  std::memset(base, guard_byte, guard);
  std::memset(address + bytes, guard_byte, guard);
  forbid(base, guard);
  forbid(address + bytes, guard);
  ranges().add({address, bytes, sparse});
  return address;
}

bool guards_intact(const std::byte* address, std::size_t bytes) {
  return watched_by_sanitizer || (intact(address - guard) && intact(address + bytes));
}

void retire_guarded(std::byte* address, std::size_t bytes) {
  ranges().retire(address);
  forbid(address, bytes);
}

void free_guarded(std::byte* address, std::size_t bytes) {
  std::byte* base = address - guard;
  const GuardedRange range = ranges().remove(address);
  if (range.sparse) {
    // Only what was forbidden: the sanitizer's notes on the rest are sparse too.
    allow(base, guard);
    allow(address + bytes, guard);
    if (range.retired) allow(address, bytes);
    munmap(base, whole(bytes));
  } else {
    allow(base, bytes + 2 * guard);
    std::free(base);
  }
}

std::optional<GuardedRange> guarded_at(const void* address) {
  return ranges().find(static_cast<const std::byte*>(address));
}

}  // namespace tessera::emulation
