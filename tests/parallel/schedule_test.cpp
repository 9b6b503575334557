// Pipeline schedules: complete, free of deadlock, with the bubble and the memory that their authors
// published.

#include "parallel/pipeline/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/base/error.h"

namespace tessera {
namespace {

std::vector<PipelineShape> plain_shapes() {
  std::vector<PipelineShape> shapes;
  for (const int stages : {1, 2, 3, 4, 5, 8})
    for (const int microbatches : {1, 2, 3, 4, 7, 8, 16, 33}) shapes.push_back({stages, 1, microbatches});
  return shapes;
}

std::string name(const PipelineShape& s) {
  return std::to_string(s.stages) + " stages, " + std::to_string(s.virtual_stages) + " virtual, " +
         std::to_string(s.microbatches) + " microbatches";
}

// (p − 1)(F + B) of idle time on every stage, and min(p − s, m) microbatches in flight on stage s.
TEST(Schedule1F1B, HasThePublishedBubbleAndMemory) {
  const PipelineCosts costs{1, 1.25, 0.75};
  for (const PipelineShape& shape : plain_shapes()) {
    const PipelineReport report = check_schedule(one_f_one_b(shape), costs);
    for (int s = 0; s < shape.stages; ++s) {
      EXPECT_DOUBLE_EQ(report.idle[static_cast<std::size_t>(s)], (shape.stages - 1) * 3.0) << name(shape);
      EXPECT_EQ(report.live_activations[static_cast<std::size_t>(s)],
                std::min(shape.stages - s, shape.microbatches))
          << name(shape);
    }
  }
}

// A chunk is 1/v of a stage, so the bubble (p − 1)(F + B) in units of chunks is 1/v of 1F1B's; stage s holds
// 2 (p − s − 1) + (v − 1) p + 1 chunk inputs at most.
TEST(ScheduleInterleaved, HasThePublishedBubbleAndMemory) {
  for (const int p : {2, 3, 4, 8})
    for (const int v : {2, 3, 4})
      for (const int rounds : {1, 2, 5}) {
        const PipelineShape shape{p, v, rounds * p};
        const PipelineReport report = check_schedule(interleaved_one_f_one_b(shape), {1, 1.25, 0.75});
        for (int s = 0; s < p; ++s) {
          EXPECT_DOUBLE_EQ(report.idle[static_cast<std::size_t>(s)], (p - 1) * 3.0) << name(shape);
          EXPECT_EQ(report.live_activations[static_cast<std::size_t>(s)],
                    std::min(shape.microbatches * v, 2 * (p - s - 1) + (v - 1) * p + 1))
              << name(shape) << ", stage " << s;
        }
      }
  for (const int m : {4, 8})
    EXPECT_EQ(interleaved_one_f_one_b({4, 1, m}).actions, one_f_one_b({4, 1, m}).actions);
}

// (p − 1)(F + B − W) of idle time, B and W being the two halves of backward; at most p microbatches in
// flight.
TEST(ScheduleZeroBubble, HasThePublishedBubbleAndMemory) {
  for (const PipelineShape& shape : plain_shapes()) {
    if (shape.microbatches < 2 * shape.stages - 1) {
      check_schedule(zero_bubble(shape));
      continue;  // too few to fill the bubble: the formula is for the steady state
    }
    const PipelineReport report = check_schedule(zero_bubble(shape));
    for (int s = 0; s < shape.stages; ++s) {
      EXPECT_DOUBLE_EQ(report.idle[static_cast<std::size_t>(s)], shape.stages - 1.0)
          << name(shape) << ", stage " << s;
      EXPECT_LE(report.live_activations[static_cast<std::size_t>(s)], shape.stages) << name(shape);
    }
  }
}

TEST(Schedules, ImpossibleShapesAreRefused) {
  EXPECT_THROW(one_f_one_b({2, 2, 4}), Error);
  EXPECT_THROW(zero_bubble({2, 2, 4}), Error);
  EXPECT_THROW(interleaved_one_f_one_b({4, 2, 6}), Error);
  EXPECT_THROW(one_f_one_b({0, 1, 4}), Error);
}

std::string defect(const PipelineSchedule& schedule) {
  try {
    check_schedule(schedule);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(ScheduleChecker, RejectsCorruptedLists) {
  const PipelineSchedule good = one_f_one_b({3, 1, 4});
  PipelineSchedule bad = good;
  bad.actions[1].pop_back();
  EXPECT_NE(defect(bad).find("waits for ever"), std::string::npos)
      << defect(bad);  // stage 0 lacks a gradient
  bad = good;
  bad.actions[0].pop_back();
  EXPECT_EQ(defect(bad), "no stage runs backward of microbatch 3 on chunk 0");
  bad = good;
  bad.actions[2].push_back(bad.actions[2][0]);
  EXPECT_EQ(defect(bad), "stage 2: forward of microbatch 0 on chunk 2 comes twice");
  bad = good;
  std::swap(bad.actions[1], bad.actions[2]);
  EXPECT_NE(defect(bad).find("does not belong there"), std::string::npos) << defect(bad);
  bad = good;
  std::swap(bad.actions[2][0], bad.actions[2][1]);
  EXPECT_EQ(defect(bad), "stage 2 waits for ever to begin backward of microbatch 0 on chunk 2");
  bad = good;
  bad.actions.pop_back();
  EXPECT_NE(defect(bad), "");
}

// Any exchange of two actions of a stage either is found out or leaves a schedule that still runs everything.
TEST(ScheduleChecker, FindsEveryMissingAction) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  for (const PipelineSchedule& good :
       {one_f_one_b({4, 1, 8}), interleaved_one_f_one_b({4, 2, 8}), zero_bubble({4, 1, 8})})
    for (int i = 0; i < 200; ++i) {
      PipelineSchedule bad = good;
      auto& list = bad.actions[random() % 4];
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(random() % list.size()));
      EXPECT_NE(defect(bad), "") << "seed " << seed;
    }
}

}  // namespace
}  // namespace tessera
