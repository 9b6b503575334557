// The arena that a GPU's memory comes from: it knows addresses only, so any will do.

#include "kernels/cuda/native/arena.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/seed.h"

namespace tessera::cuda {
namespace {

// Segments far apart, up to a limit in bytes; never touched.
class Segments {
 public:
  explicit Segments(std::size_t limit) : left_(limit) {}
  void* make(std::size_t bytes) {
    if (bytes > left_) return nullptr;
    left_ -= bytes;
    ++count;
    auto* address = reinterpret_cast<void*>(next_);
    next_ += bytes;  // neighbours, which must not be joined all the same
    return address;
  }
  int count = 0;

 private:
  std::size_t left_;
  std::uintptr_t next_ = std::uintptr_t{1} << 30;
};

TEST(Arena, HandsOutPartsThatDoNotOverlapAndJoinsThemAgain) {
  constexpr std::size_t segment = 1 << 20;
  Segments segments(8 * segment);
  Arena arena([&](std::size_t bytes) { return segments.make(bytes); }, segment);
  std::mt19937_64 random(test_seed());
  std::map<std::uintptr_t, std::size_t> live;
  for (int round = 0; round < 20000; ++round) {
    if (!live.empty() && random() % 2 == 0) {
      const auto victim = std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size()));
      arena.release(reinterpret_cast<void*>(victim->first));
      live.erase(victim);
      continue;
    }
    const std::size_t bytes = 1 + random() % (std::size_t{1} << (random() % 18));
    void* address = arena.allocate(bytes);
    if (address == nullptr) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    EXPECT_EQ(begin % Arena::alignment, 0U);
    const auto after = live.lower_bound(begin);
    ASSERT_TRUE(after == live.end() || begin + bytes <= after->first) << "TESSERA_TEST_SEED=" << test_seed();
    if (after != live.begin()) {
      const auto before = std::prev(after);
      ASSERT_LE(before->first + before->second, begin) << "TESSERA_TEST_SEED=" << test_seed();
    }
    live[begin] = bytes;
  }
  for (const auto& [address, bytes] : live) arena.release(reinterpret_cast<void*>(address));
  EXPECT_EQ(arena.reserved(), segment * static_cast<std::size_t>(segments.count));
  EXPECT_EQ(arena.largest_free(), segment) << "parts of a segment must join, those of two must not";
}

TEST(Arena, ReservesOnceWhatARunNeeds) {
  Segments segments(1 << 30);
  Arena arena([&](std::size_t bytes) { return segments.make(bytes); }, 1 << 20);
  ASSERT_TRUE(arena.reserve(64 << 20));
  for (int i = 0; i < 63; ++i) ASSERT_NE(arena.allocate(1 << 20), nullptr);
  EXPECT_EQ(segments.count, 1);
}

TEST(Arena, TakesALessThanWholeSegmentBeforeItGivesUp) {
  Segments segments((1 << 20) + 4096);
  Arena arena([&](std::size_t bytes) { return segments.make(bytes); }, 1 << 20);
  EXPECT_NE(arena.allocate(1 << 20), nullptr);
  EXPECT_NE(arena.allocate(4096), nullptr);
  EXPECT_EQ(arena.allocate(1), nullptr);
}

// What graphs use is theirs until the last of them is gone.
TEST(Arena, KeepsHeldMemoryApart) {
  constexpr std::size_t segment = 8 * Arena::alignment;
  Segments segments(2 * segment);
  Arena arena([&](std::size_t bytes) { return segments.make(bytes); }, segment);
  void* before = arena.allocate(Arena::alignment);
  arena.hold(true);
  void* first = arena.allocate(2 * Arena::alignment);
  void* second = arena.allocate(Arena::alignment);
  arena.release(first);
  arena.release(second);  // one part of three again
  EXPECT_EQ(arena.allocate(3 * Arena::alignment), first) << "held memory serves what is held";
  arena.release(first);
  arena.hold(false);
  EXPECT_EQ(arena.held_free(), 3 * Arena::alignment);
  arena.release(before);
  void* rest = arena.allocate(4 * Arena::alignment);
  EXPECT_EQ(rest, static_cast<std::byte*>(before) + 4 * Arena::alignment) << "not of held memory";
  EXPECT_EQ(arena.allocate(Arena::alignment), before);
  arena.release(before);
  EXPECT_EQ(segments.count, 1);
  void* next = arena.allocate(5 * Arena::alignment);
  EXPECT_EQ(segments.count, 2) << "before and what is held are not joined";
  arena.release(next);
  arena.free_held();
  EXPECT_EQ(arena.allocate(4 * Arena::alignment), before);
}

}  // namespace
}  // namespace tessera::cuda
