// A few steps of a subject on one rank's engine, as training takes them: numbers come when they are asked
// for.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <span>
#include <vector>

#include "launch/batches.h"
#include "launch/verify/run.h"

namespace tessera::verify {

// What a rank saw, and what it holds in the end.
struct ShortRun {
  std::vector<EngineReport> reports;  // by step
  std::vector<float> weights;
};

// Whether two runs did the same, to the bit.
inline void expect_same(const ShortRun& run, const ShortRun& other) {
  ASSERT_EQ(run.reports.size(), other.reports.size());
  for (std::size_t i = 0; i < run.reports.size(); ++i) {
    EXPECT_EQ(run.reports[i].loss, other.reports[i].loss) << "step " << i;
    EXPECT_EQ(run.reports[i].norm, other.reports[i].norm) << "step " << i;
    EXPECT_EQ(run.reports[i].experts.slots, other.reports[i].experts.slots) << "step " << i;
    EXPECT_EQ(run.reports[i].experts.balance, other.reports[i].experts.balance) << "step " << i;
  }
  EXPECT_EQ(run.weights, other.weights);
}

// Microbatches are of one sequence. `begins` is called before each step, and with their number after the
// last.
inline ShortRun run_shortly(
    const Subject& subject, Engine& engine, const std::function<void(int step)>& begins = [](int) {}) {
  engine.initialize(subject.seed);
  const std::vector<std::int64_t> microbatches = engine.microbatches();
  for (int step = 0; step < subject.steps; ++step) {
    begins(step);
    const auto load = [&](std::size_t i) {
      const auto ordinal = step * subject.batch.global_batch + microbatches[i];
      const Sample sample = draw_sample(subject, static_cast<std::uint64_t>(ordinal));
      return make_batch(std::span(&sample, 1), subject.document_mask, engine.device(), engine.positions());
    };
    engine.run_step(load, subject.batch.global_batch * subject.batch.seq_len);
    engine.update(subject.lr * (1 + step), subject.clip / (1 + step));
  }
  begins(subject.steps);
  ShortRun run;
  while (engine.reports_waiting() > 0) run.reports.push_back(engine.next_report());
  for (const Engine::Owned& part : engine.held()) {
    const std::size_t before = run.weights.size();
    run.weights.resize(before + static_cast<std::size_t>(part.weight.numel()));
    part.weight.to_host(run.weights.data() + before);
  }
  return run;
}

}  // namespace tessera::verify
