#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/tensor/device.h"
#include "parallel/grad_norm.h"
#include "parallel/reduce_groups.h"
#include "tests/parallel/conformance.h"

namespace tessera {
namespace {

// Leaves summed on one rank, or in blocks on several ranks and then over ranks, must agree in every bit
// exactly where blocks_are_subtrees says so.
TEST(TreeSum, RanksThatHoldSubtreesGiveTheBitsOfOne) {
  const auto device = make_device(DeviceKind::cpu);
  const std::int64_t n = 33;
  for (const std::int64_t groups : {1, 2, 3, 4, 6, 7, 8, 12}) {
    std::vector<std::vector<float>> leaves;
    for (std::int64_t g = 0; g < groups; ++g) leaves.push_back(random_values(static_cast<int>(g), n));
    const auto block_sum = [&](std::int64_t begin, std::int64_t count) {
      TreeAccumulator accumulator(count);
      for (std::int64_t g = begin; g < begin + count; ++g)
        accumulator.push(
            Tensor::from_host(leaves[static_cast<std::size_t>(g)].data(), {n}, DType::f32, *device));
      return accumulator.finish();
    };
    const Tensor alone = block_sum(0, groups);
    for (std::int64_t ranks = 1; ranks <= groups; ++ranks) {
      if (groups % ranks != 0) continue;
      std::vector<Tensor> sums;
      for (std::int64_t r = 0; r < ranks; ++r) sums.push_back(block_sum(r * groups / ranks, groups / ranks));
      const Tensor total = Tensor::empty({n}, DType::f32, *device);
      tree_sum(sums, total);
      const bool same = std::memcmp(total.raw(), alone.raw(), alone.bytes()) == 0;
      EXPECT_TRUE(same || !blocks_are_subtrees(groups, ranks))
          << groups << " groups on " << ranks << " ranks";
    }
  }
  EXPECT_FALSE(blocks_are_subtrees(6, 2));
}

TEST(ReduceGroups, CoverEveryMicrobatchOnce) {
  for (const int ranks : {1, 2, 4}) {
    std::vector<int> seen(16);
    for (int rank = 0; rank < ranks; ++rank) {
      const ReduceGroups plan = plan_reduce_groups(32, 2, 4, ranks, rank);
      for (std::int64_t g = 0; g < plan.local_groups; ++g)
        for (std::int64_t i = 0; i < plan.microbatches_per_group(); ++i)
          ++seen[static_cast<std::size_t>(plan.microbatch(g, i))];
    }
    for (const int count : seen) EXPECT_EQ(count, 1);
  }
  EXPECT_THROW(plan_reduce_groups(32, 2, 4, 3, 0), Error);
  EXPECT_THROW(plan_reduce_groups(32, 3, 4, 1, 0), Error);
  EXPECT_THROW(plan_reduce_groups(32, 2, 5, 5, 0), Error);
  for (const std::int64_t never : {-1, 0}) EXPECT_THROW(plan_reduce_groups(32, 2, never, 1, 0), Error);
}

// What a refusal suggests, and what a resumed run goes on with, is what fits: divisors of the microbatches
// that are multiples of the ranks.
TEST(ReduceGroups, SuggestionsAndRegroupingsFit) {
  try {
    plan_reduce_groups(48, 2, 5, 4, 0);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(
        e.what(),
        "parallel.reduce_groups 5 does not go with 24 microbatches a step on 4 data-parallel ranks; it "
        "may be 4, 8, 12, 24");
  }
  EXPECT_EQ(groups_for_ranks(24, 12, 4), 12);  // as many
  EXPECT_EQ(groups_for_ranks(24, 16, 4), 12);  // the most below
  EXPECT_EQ(groups_for_ranks(24, 2, 4), 4);    // the fewest above
  EXPECT_EQ(groups_for_ranks(32, 64, 8), 32);
  EXPECT_EQ(groups_for_ranks(24, 3, 5), 3);  // none: for plan_reduce_groups to refuse
}

TEST(GradientNorm, ANanHasNoSign) {
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  Parameter parameter(plain_parameter("w", {2, 3}), DType::f32, *device);
  const float values[6] = {1, -std::numeric_limits<float>::quiet_NaN(), 3, 4, 5, 6};
  parameter.bind_gradient(Tensor::from_host(values, {2, 3}, DType::f32, *device));
  Parameter* const parameters[] = {&parameter};
  const double norm = gradient_norm(parameters);
  EXPECT_TRUE(std::isnan(norm));
  EXPECT_FALSE(std::signbit(norm));
}

}  // namespace
}  // namespace tessera
