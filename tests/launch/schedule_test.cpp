#include "launch/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera {
namespace {

ScheduleConfig schedule(ScheduleName name, std::int64_t warmup, double min_lr) {
  ScheduleConfig out;
  out.name = name;
  out.warmup = warmup;
  out.min_lr = min_lr;
  return out;
}

TEST(Schedule, WarmupRisesFromAFractionOfThePeak) {
  for (const ScheduleName name : {ScheduleName::cosine, ScheduleName::wsd, ScheduleName::constant}) {
    const ScheduleConfig s = schedule(name, 20, 1e-4);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 0), 1e-3 / 20);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 9), 0.5e-3);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 19), 1e-3);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 20), 1e-3);
  }
}

TEST(Schedule, CosineIsHalfwayAtHalfAndEndsAtMinimum) {
  const ScheduleConfig s = schedule(ScheduleName::cosine, 20, 1e-4);
  EXPECT_NEAR(learning_rate(s, 1e-3, 300, 160), 0.55e-3, 1e-12);
  EXPECT_NEAR(learning_rate(s, 1e-3, 300, 90), 1e-4 + 0.45e-3 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 300), 1e-4);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 300, 999), 1e-4);
}

TEST(Schedule, WsdHoldsThenFallsLinearly) {
  ScheduleConfig s = schedule(ScheduleName::wsd, 0, 2e-4);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 100, 90), 1e-3);  // a tenth of the steps by default
  EXPECT_NEAR(learning_rate(s, 1e-3, 100, 95), 0.6e-3, 1e-15);
  s.decay_steps = 40;
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 100, 60), 1e-3);
  EXPECT_NEAR(learning_rate(s, 1e-3, 100, 80), 0.6e-3, 1e-15);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 100, 100), 2e-4);
}

// However long the warmup, the rate never falls at once.
TEST(Schedule, WsdFallsNoFasterThanItsSlope) {
  for (const std::int64_t warmup : {0, 50, 92, 95, 99, 100}) {
    const ScheduleConfig s = schedule(ScheduleName::wsd, warmup, 0);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1, 100, std::max<std::int64_t>(0, warmup - 1)), 1) << warmup;
    if (warmup < 100) {
      EXPECT_DOUBLE_EQ(learning_rate(s, 1, 100, warmup), 1) << warmup;
    }
    const double decay = static_cast<double>(std::min<std::int64_t>(10, 100 - warmup));
    for (std::int64_t step = warmup; step + 1 < 100; ++step)
      EXPECT_LE(learning_rate(s, 1, 100, step) - learning_rate(s, 1, 100, step + 1), 1 / decay + 1e-12)
          << warmup << ", " << step;
  }
}

TEST(Schedule, ConstantStays) {
  const ScheduleConfig s = schedule(ScheduleName::constant, 0, 1e-5);
  for (const std::int64_t step : {0, 50, 1000}) EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 100, step), 1e-3);
}

TEST(Schedule, WarmupAsLongAsTheRun) {
  const ScheduleConfig s = schedule(ScheduleName::cosine, 100, 0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 100, 99), 1e-3);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 50, 49), 0.5e-3);
}

}  // namespace
}  // namespace tessera
