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

}  // namespace
}  // namespace tessera
