#include <gtest/gtest.h>

#include <cmath>

#include "launch/verify/run.h"

namespace tessera::verify {
namespace {

Subject small_llama(bool tied, bool documents) {
  Subject subject;
  subject.spec.vocab_size = 67;
  subject.spec.hidden_size = 32;
  subject.spec.max_positions = 32;
  subject.spec.tied = tied;
  AttentionSpec attention;
  attention.heads = 4;
  attention.kv_heads = 2;
  attention.head_dim = 8;
  attention.rope.width = 8;
  attention.qkv_bias = attention.output_bias = true;
  attention.qk_norm = NormSpec{};
  const LayerSpec layer{{NormSpec{}, attention}, {NormSpec{}, FfnSpec{44, true}}};
  subject.spec.layers.assign(4, layer);
  subject.spec.init_std = 0.1;
  subject.batch = {8, 1, 32};
  subject.model.positions = 32;
  subject.reduce_groups = 4;
  subject.document_mask = documents;
  return subject;
}

double relative(const Whole& a, const Whole& b) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double x = a.values[i];
    const double y = b.values[i];
    difference += (x - y) * (x - y);
    norm += x * x;
  }
  return std::sqrt(difference / norm);
}

void compare(const Subject& subject, const ParallelLayout& layout, bool bits) {
  SCOPED_TRACE(text(layout));
  static std::map<std::string, Record> records;
  const std::string key = std::to_string(subject.spec.tied) + std::to_string(subject.document_mask) +
                          std::to_string(subject.reduce_groups) +
                          std::to_string(static_cast<int>(subject.model.balance.kind)) +
                          std::to_string(moe_layers(subject.spec));
  if (!records.contains(key)) records[key] = run(subject, {});
  const Record& one = records[key];
  const Record many = run(subject, layout);
  ASSERT_EQ(one.gradients.size(), many.gradients.size());
  double worst = 0;
  std::string where;
  for (const auto& [name, gradient] : one.gradients) {
    const double r = relative(gradient, many.gradients.at(name));
    if (r > worst) {
      worst = r;
      where = name;
    }
  }
  std::printf("%-50s worst %.2e %s, loss %.9g vs %.9g norm %.9g vs %.9g\n", text(layout).c_str(), worst,
              where.c_str(), one.losses[2], many.losses[2], one.norms[2], many.norms[2]);
  EXPECT_LE(worst, bits ? 0 : 1e-5);
  EXPECT_NEAR(one.losses[2], many.losses[2], 1e-5);
}

Subject small_moe(Balance balance) {
  Subject subject = small_llama(false, true);
  for (std::size_t i = 1; i < 4; ++i) subject.spec.layers[i][1].body = MoeSpec{8, 2, 12, true};
  subject.model.balance.kind = balance;
  subject.model.balance.coefficient = 0.05;
  return subject;
}

TEST(Layouts, Experts) {
  for (const Balance balance : {Balance::none, Balance::sequence, Balance::global, Balance::bias}) {
    const Subject subject = small_moe(balance);
    for (const int zero : {0, 1, 3}) {
      const auto check = [&](int dp, int cp, int tp, int pp, int ep, int etp, bool bits) {
        ParallelLayout layout;
        layout.zero = zero;
        layout.mesh = {pp, dp, cp, tp, ep, etp};
        compare(subject, layout, bits);
      };
      check(2, 1, 1, 1, 1, 1, true);
      check(2, 1, 1, 2, 1, 1, true);
      check(2, 1, 1, 1, 2, 1, false);
      check(1, 1, 2, 1, 1, 1, false);
      check(1, 1, 2, 1, 2, 1, false);
      check(1, 1, 2, 1, 1, 2, false);
      check(1, 2, 1, 1, 2, 1, false);
      check(2, 1, 2, 2, 4, 1, false);
      check(2, 2, 2, 1, 2, 2, false);
    }
  }
}

TEST(Layouts, Quick) {
  const Subject subject = small_llama(true, true);
  for (const int zero : {0, 1, 2, 3}) {
    ParallelLayout layout;
    layout.zero = zero;
    layout.mesh.dp = 2;
    compare(subject, layout, true);
    layout.mesh.dp = 4;
    compare(subject, layout, true);
    layout.mesh = {};
    layout.mesh.pp = 2;
    compare(subject, layout, true);
    layout.mesh.dp = 2;
    compare(subject, layout, true);
    layout.schedule = ScheduleKind::zero_bubble;
    compare(subject, layout, true);
    layout.schedule = ScheduleKind::interleaved;
    layout.virtual_stages = 2;
    compare(subject, layout, true);
    layout = {};
    layout.zero = zero;
    layout.mesh.tp = 2;
    compare(subject, layout, false);
    layout.mesh.tp = 4;
    compare(subject, layout, false);
    layout.mesh = {};
    layout.mesh.cp = 2;
    compare(subject, layout, false);
    layout.context = ContextMethod::ulysses;
    compare(subject, layout, false);
    layout.mesh.tp = 2;
    layout.mesh.dp = 2;
    compare(subject, layout, false);
  }
}

}  // namespace
}  // namespace tessera::verify
