#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/new_file.h"
#include "core/base/philox.h"
#include "core/base/thread_pool.h"

namespace tessera {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(bf16(1.0F).raw, 0x3f80);
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f808000U)).raw, 0x3f80);  // tie to even, down
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f818000U)).raw, 0x3f82);  // tie to even, up
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001U)))));
}

TEST(F16, EveryValueRoundTrips) {
  for (unsigned raw = 0; raw < 0x10000; ++raw) {
    const float value = f16_to_float(static_cast<std::uint16_t>(raw));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_f16(value), raw);
  }
}

TEST(DType, NamesRoundTrip) {
  EXPECT_EQ(dtype_from_name(name(DType::bf16)), DType::bf16);
  EXPECT_THROW(dtype_from_name("F33"), Error);
}

TEST(ThreadPool, RunsEveryItemOnceAndRethrows) {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> hits(37);
    pool.parallel_for(37, [&](std::int64_t i) { ++hits[static_cast<std::size_t>(i)]; });
    for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
  }
  EXPECT_THROW(pool.parallel_for(8,
                                 [](std::int64_t i) {
                                   if (i == 5) fail("item {}", i);
                                 }),
               Error);
}

// By their definition in plain functions of the library: whatever shortcut draws them, and wherever one
// begins.
TEST(Philox, NormalNumbersAreTheirDefinition) {
  const auto defined = [](Key key, std::uint64_t index) {
    const auto bits = philox(key.value, index / 2, 1);
    const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1p-32;
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits[1]) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) *
                              (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
  };
  const auto expect = [&](std::uint64_t seed, std::size_t count, std::uint64_t first) {
    const Key key(seed, "normal");
    std::vector<float> drawn(count);
    fill_normal(drawn, key, 0.02F, first);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i)
      wrong += std::bit_cast<std::uint32_t>(drawn[i]) !=
                       std::bit_cast<std::uint32_t>(0.02F * defined(key, first + i))
                   ? 1
                   : 0;
    EXPECT_EQ(wrong, 0U) << seed << ": " << count << " from " << first;
  };
  for (std::size_t count = 0; count < 300; count += 7)
    for (const std::uint64_t first : {0, 1, 2, 127}) expect(count, count, first);
  // Millions, for those whose rounding a shortcut cannot tell: one in ten thousand.
  expect(1, 2'000'000, 0);
  expect(2, 1'000'001, (std::uint64_t{1} << 40) + 1);
}

TEST(Philox, ThreadsDrawTheSame) {
  ThreadPool pool(3);
  std::vector<float> alone(100'001);
  std::vector<float> together(alone.size());
  fill_normal(alone, Key(3, "x"), 1, std::uint64_t{5});
  fill_normal(together, Key(3, "x"), 1, pool, 5);
  EXPECT_EQ(alone, together);
}

TEST(Json, RefusesWhatTheLibraryLetsPass) {
  EXPECT_EQ(message_of([] { parse_json(R"({"a":1,"a":2})", "f"); }), "f: duplicate key 'a'");
  EXPECT_NE(message_of([] { parse_json("{\"a\":\n 1,}", "f"); }).find("f:2:4"), std::string::npos);
  EXPECT_NE(message_of([] { parse_json("[1] 2", "f"); }).find("invalid JSON"), std::string::npos);
  EXPECT_NE(message_of([] { parse_json(std::string(1000, '['), "f"); }).find("nested"), std::string::npos);
  EXPECT_NE(message_of([] { parse_json("\"\xff\"", "f"); }).find("invalid"), std::string::npos);
  const Json value = parse_json(R"({"z":[1,{"y":null}],"a":-2.5})", "f");
  EXPECT_EQ(value.dump(), R"({"z":[1,{"y":null}],"a":-2.5})");
}

TEST(Io, WritesAtomicallyAndNamesFailures) {
  const auto path = std::filesystem::temp_directory_path() / "tessera_io_test";
  io::write_atomically(path, "hello");
  EXPECT_EQ(io::read_text(path), "hello");
  EXPECT_NE(message_of([&] { io::read_text(path, 4); }).find("at most 4"), std::string::npos);
  io::remove_file(path);
  EXPECT_NE(message_of([&] { io::read_text(path); }).find("tessera_io_test"), std::string::npos);
}

TEST(Hash, KnownVectors) {
  EXPECT_EQ(sha256_hex(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(xxh3_128_hex({}), "99aa06d3014798d86001c324468d497f");
}

TEST(Error, IsOneLineWhateverNamesHold) {
  EXPECT_STREQ(Error("a 'b\nc\x1b[2J\t\x7f' é").what(), "a 'b\\nc\\x1b[2J\\t\\x7f' é");
}

TEST(Suggestion, OffersTheNearestKey) {
  const std::vector<std::string> keys{"hidden_size", "num_hidden_layers"};
  EXPECT_EQ(did_you_mean("hiden_size", keys), "; did you mean 'hidden_size'?");
  EXPECT_EQ(did_you_mean("banana", keys), "");
}

}  // namespace
}  // namespace tessera
