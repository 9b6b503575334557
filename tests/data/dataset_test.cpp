#include "data/dataset.h"

#include <gtest/gtest.h>

#include <set>

#include "core/base/error.h"
#include "data/permutation.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

TEST(Permutation, IsABijectionThatDependsOnSeedAndEpoch) {
  for (const std::uint64_t n : {1, 2, 3, 17, 64, 1000}) {
    std::set<std::uint64_t> seen;
    std::uint64_t fixed = 0;
    std::uint64_t changed = 0;
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t image = permuted(i, n, 5, 0);
      EXPECT_LT(image, n);
      seen.insert(image);
      fixed += image == i ? 1 : 0;
      changed += permuted(i, n, 5, 1) != image && permuted(i, n, 6, 0) != image ? 1 : 0;
    }
    EXPECT_EQ(seen.size(), n);
    if (n == 1000) {
      EXPECT_LT(fixed, 10U);  // about one is expected
      EXPECT_GT(changed, 980U);
    }
  }
}

TEST(Dataset, EveryWindowOnceAnEpoch) {
  const TemporaryFolder folder;
  write_counting_file(folder / "a.h5", 60, 5000);
  const Dataset data({{(folder / "a.h5").string(), 1}}, 8, false, 3);
  const auto n = static_cast<std::uint64_t>(windows(data.file(0), 8));
  for (std::uint64_t epoch = 0; epoch < 2; ++epoch) {
    std::set<std::int32_t> begins;
    for (std::uint64_t i = 0; i < n; ++i) {
      const Sample sample = data.sample(epoch * n + i);
      EXPECT_EQ(sample.tokens[0] % 8, 0);
      EXPECT_EQ(sample.targets[7], sample.tokens[0] + 8);
      begins.insert(sample.tokens[0]);
    }
    EXPECT_EQ(begins.size(), n);
  }
}

TEST(Dataset, MaskedDocumentsRestart) {
  const TemporaryFolder folder;
  write_counting_file(folder / "a.h5", 60, 5000);  // documents begin at 0, 1, 9, 11, …
  const TokenFile file(folder / "a.h5");
  const Sample sample = window(file, 0, 10, true);
  EXPECT_EQ(sample.targets, (std::vector<std::int32_t>{-1, 2, 3, 4, 5, 6, 7, 8, -1, 10}));
  EXPECT_EQ(sample.positions, (std::vector<std::int32_t>{0, 0, 1, 2, 3, 4, 5, 6, 7, 0}));
  EXPECT_EQ(sample.doc_start, (std::vector<std::int32_t>{0, 1, 1, 1, 1, 1, 1, 1, 1, 9}));
  EXPECT_EQ(sample.counted, 8);
  EXPECT_EQ(window(file, 0, 10, false).counted, 10);
}

TEST(Dataset, BlendsByWeight) {
  const TemporaryFolder folder;
  write_counting_file(folder / "a.h5", 60, 5000);
  write_counting_file(folder / "b.h5", 90, 5000);
  const Dataset data({{(folder / "a.h5").string(), 3}, {(folder / "b.h5").string(), 1}}, 8, false, 3);
  const auto positions = data.positions(8192 + 100);
  EXPECT_EQ(positions[0] + positions[1], 8192U + 100U);
  EXPECT_NEAR(static_cast<double>(positions[0]), 0.75 * (8192 + 100), 30);
  EXPECT_EQ(data.positions(4096)[1], 1024U);
  write_counting_file(folder / "c.h5", 60, 4000);
  EXPECT_THROW(Dataset({{(folder / "a.h5").string(), 1}, {(folder / "c.h5").string(), 1}}, 8, false, 3),
               Error);
}

// A file of nothing but token 7, of the same tokenizer as write_counting_file's.
void write_sevens(const std::filesystem::path& path) {
  TokenFileWriter writer(path, 5000, std::nullopt, "{\"a tokenizer\": 1}");
  for (int d = 0; d < 10; ++d) writer.add(std::vector<std::uint32_t>(50, 7), 50);
  writer.finish();
}

// A run's order is for ever: which window of which source a sample is. The numbers were drawn before blocks
// could be longer than 4096 samples.
TEST(Dataset, OrderOfABlendStays) {
  const TemporaryFolder folder;
  write_counting_file(folder / "a.h5", 600, 5000);
  write_sevens(folder / "b.h5");
  write_counting_file(folder / "c.h5", 900, 5000);
  const Dataset data(
      {{(folder / "a.h5").string(), 3}, {(folder / "b.h5").string(), 0.001}, {(folder / "c.h5").string(), 1}},
      8, false, 3);
  EXPECT_EQ(data.positions(10000), (std::vector<std::uint64_t>{7493, 2, 2505}));
  std::vector<std::int32_t> firsts;
  for (std::uint64_t n = 0; n < 20000; n += 997) firsts.push_back(data.sample(n).tokens[0]);
  EXPECT_EQ(firsts,
            (std::vector<std::int32_t>{1520, 1448, 720,  784,  3544, 2288, 504,  4080, 1872, 2440, 1912,
                                       1096, 800,  1048, 1496, 3312, 2472, 2248, 1288, 2296, 960}));
}

// A source of little weight has its samples, in longer blocks.
TEST(Dataset, EverySourceHasItsShare) {
  const TemporaryFolder folder;
  const std::string a = folder / "a.h5";
  const std::string b = folder / "b.h5";
  write_counting_file(a, 600, 5000);
  write_sevens(b);
  const auto of_b = [&](double weight, std::uint64_t samples) {
    const Dataset data({{a, 1 - weight}, {b, weight}}, 8, false, 3);
    std::uint64_t found = 0;
    for (std::uint64_t n = 0; n < samples; ++n) found += data.sample(n).tokens[1] == 7 ? 1 : 0;
    EXPECT_EQ(data.positions(samples)[1], found) << weight;
    return found;
  };
  EXPECT_EQ(of_b(2e-4, 4096), 1U);      // 0.82 of a sample of a block
  EXPECT_EQ(of_b(1e-4, 3 * 8192), 3U);  // 0.41 of one, and 0.82 of a block of two
  EXPECT_EQ(of_b(1e-5, 65536), 1U);     // 0.66 of a block of sixteen, 0.33 of one of eight
  try {
    Dataset({{a, 1}, {b, 1e-9}}, 8, false, 3);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "b.h5", std::string(e.what()));
  }
}

}  // namespace
}  // namespace tessera
