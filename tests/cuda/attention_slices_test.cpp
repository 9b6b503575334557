// Attention in slices: they cover every head of every row once, at the right addresses, and fit the budget.

#include "kernels/cuda/native/attention_slices.h"

#include <gtest/gtest.h>

#include <set>

namespace tessera::cuda {
namespace {

// Rows of the batch, positions and heads of every tensor lie apart by numbers that no mix-up of them gives.
AttentionProblem problem() {
  AttentionProblem n;
  n.backward = true;
  n.batch = 6;
  n.queries = 64;
  n.keys = 128;
  n.heads = 12;
  n.kv_heads = 4;
  n.head_size = 8;
  n.documents = true;
  n.document_row = 67;
  n.document_position = 1;
  n.q = {100003, 211, 17};
  n.k = {200003, 223, 19};
  n.v = {300007, 227, 23};
  n.out = {6144, 96, 8};
  n.gradients = {4096, 32, 8};
  return n;
}

std::byte* at(std::uintptr_t address) {
  return reinterpret_cast<std::byte*>(address);
}

TEST(AttentionSlices, CoverEveryHeadOnceAtItsAddress) {
  const AttentionProblem whole = problem();
  AttentionTensors base;
  base.q = at(0x100000000);
  base.k = at(0x200000000);
  base.v = at(0x300000000);
  base.doc_start = at(0x400000000);
  base.out = at(0x500000000);
  base.lse = at(0x600000000);
  base.dout = at(0x700000000);
  base.dq = at(0x800000000);
  base.dk = at(0x900000000);
  base.dv = at(0xa00000000);
  for (const AttentionSlices slices : {AttentionSlices{6, 4}, {2, 4}, {1, 4}, {1, 2}, {1, 1}}) {
    std::set<const void*> seen;
    std::int64_t row = 0;
    std::int64_t group = 0;
    for_each_slice(whole, slices, base, [&](const AttentionTensors& slice) {
      const auto offset = [](const void* begin, const void* end) {
        return static_cast<const std::byte*>(end) - static_cast<const std::byte*>(begin);
      };
      EXPECT_EQ(offset(base.q, slice.q), 2 * (row * 100003 + 3 * group * 17));
      EXPECT_EQ(offset(base.k, slice.k), 2 * (row * 200003 + group * 19));
      EXPECT_EQ(offset(base.v, slice.v), 2 * (row * 300007 + group * 23));
      EXPECT_EQ(offset(base.doc_start, slice.doc_start), 4 * row * 67);
      EXPECT_EQ(offset(base.lse, slice.lse), 4 * (row * 12 + 3 * group) * 64);
      EXPECT_EQ(offset(base.out, slice.out), 2 * (row * 6144 + 3 * group * 8));
      EXPECT_EQ(offset(base.dout, slice.dout), offset(base.out, slice.out));
      EXPECT_EQ(offset(base.dq, slice.dq), offset(base.out, slice.out));
      EXPECT_EQ(offset(base.dk, slice.dk), 2 * (row * 4096 + group * 8));
      EXPECT_EQ(offset(base.dv, slice.dv), offset(base.dk, slice.dk));
      seen.insert(slice.q);
      group += slices.kv_heads;
      if (group == 4) {
        group = 0;
        row += slices.rows;
      }
    });
    EXPECT_EQ(row, 6);
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(6 / slices.rows * (4 / slices.kv_heads)));
    const AttentionProblem part = slice_of(whole, slices);
    EXPECT_EQ(part.batch, slices.rows);
    EXPECT_EQ(part.heads, 3 * slices.kv_heads);
    EXPECT_EQ(part.q, whole.q);
  }
}

TEST(AttentionSlices, AreTheLargestThatFit) {
  const AttentionProblem whole = problem();
  const auto bytes = [](const AttentionProblem& n) {
    return static_cast<std::size_t>(2 * n.batch * n.heads * n.queries * n.keys + 1000);
  };
  const auto fitted = [&](std::size_t budget) { return fit_slices(whole, budget, bytes); };
  const auto expect = [&](std::size_t budget, std::int64_t rows, std::int64_t kv_heads) {
    const auto slices = fitted(budget);
    ASSERT_TRUE(slices.has_value()) << budget;
    EXPECT_EQ(slices->rows, rows) << budget;
    EXPECT_EQ(slices->kv_heads, kv_heads) << budget;
  };
  constexpr std::size_t head = 2 * 64 * 128;
  expect(6 * 12 * head + 1000, 6, 4);
  expect(6 * 12 * head + 999, 3, 4);  // 4 and 5 rows do not divide the batch
  expect(12 * head + 1000, 1, 4);
  expect(12 * head + 999, 1, 2);
  expect(3 * head + 1000, 1, 1);
  EXPECT_FALSE(fitted(3 * head + 999).has_value());
}

TEST(AttentionSlices, DoNotAskForPlansThatCannotFit) {
  int asked = 0;
  const auto bytes = [&](const AttentionProblem&) {
    ++asked;
    return std::size_t{0};
  };
  EXPECT_TRUE(fit_slices(problem(), 3 * 2 * 64 * 128, bytes).has_value());
  EXPECT_EQ(asked, 1);
}

// A slice's part of the log-sum-exp begins 16-byte aligned, or a row is not cut.
TEST(AttentionSlices, KeepAlignment) {
  AttentionProblem one = problem();
  one.batch = 1;
  one.deterministic = false;
  const auto bytes = [](const AttentionProblem& n) { return static_cast<std::size_t>(n.heads); };
  one.queries = 3;
  EXPECT_TRUE(fit_slices(one, 12, bytes).has_value());
  EXPECT_FALSE(fit_slices(one, 11, bytes).has_value());
  one.queries = 4;
  const auto cut = fit_slices(one, 11, bytes);
  ASSERT_TRUE(cut.has_value());
  EXPECT_EQ(cut->kv_heads, 2);
}

}  // namespace
}  // namespace tessera::cuda
