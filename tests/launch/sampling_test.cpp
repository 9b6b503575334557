#include "launch/sampling.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace tessera {
namespace {

// Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
const std::vector<float> logits{2.0794415F, 1.3862944F, 0.6931472F, 0.6931472F};

std::map<std::int32_t, int> counts(const SamplingOptions& options) {
  std::map<std::int32_t, int> result;
  for (std::uint64_t i = 0; i < 8000; ++i) ++result[draw_token(logits, options, i)];
  return result;
}

TEST(Sampling, GreedyTakesTheFirstOfTheLikeliest) {
  EXPECT_EQ(draw_token(logits, {}, 0), 0);
  EXPECT_EQ(draw_token(std::vector<float>{1, 3, 3}, {}, 9), 1);
}

// 8000 draws: the standard deviation of a count is at most √(8000 / 4) = 45; five of them are allowed.
TEST(Sampling, DrawsInProportion) {
  const auto seen = counts({1, 1, 7});
  EXPECT_NEAR(seen.at(0), 4000, 225);
  EXPECT_NEAR(seen.at(1), 2000, 225);
  EXPECT_NEAR(seen.at(3), 1000, 225);
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
  EXPECT_EQ(counts({1, 0.5, 7}).size(), 1U);
  EXPECT_EQ(counts({1, 0.51, 7}).size(), 2U);
  EXPECT_EQ(counts({1, 0.8, 7}).size(), 3U);
  EXPECT_EQ(counts({1, 0.0, 7}).size(), 1U);
}

TEST(Sampling, SeedAndPositionDecide) {
  EXPECT_EQ(counts({1, 1, 7}), counts({1, 1, 7}));
  EXPECT_NE(counts({1, 1, 7}), counts({1, 1, 8}));
  EXPECT_GT(counts({0.3, 1, 7}).at(0), 6500);
}

}  // namespace
}  // namespace tessera
