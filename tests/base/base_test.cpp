#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
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
