// Axes over ranks: places, groups, and what does not fit.

#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <set>

#include "core/base/error.h"
#include "core/nn/shards.h"
#include "core/nn/spec.h"
#include "parallel/comm/local.h"
#include "parallel/layout.h"

namespace tessera {
namespace {

constexpr std::array all_axes{Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::edp, Axis::ep, Axis::etp};

TEST(Mesh, NeighboursDifferInTensorParallelFirst) {
  const MeshShape shape{2, 2, 1, 2, 2, 2};
  EXPECT_EQ(place_of(shape, 0), (MeshPlace{0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(place_of(shape, 1), (MeshPlace{0, 0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(place_of(shape, 2), (MeshPlace{0, 1, 0, 0, 0, 1, 0}));
  EXPECT_EQ(place_of(shape, 7), (MeshPlace{1, 1, 0, 1, 0, 1, 1}));
  EXPECT_EQ(text(shape), "pp 2, dp 2, tp 2, ep 2, etp 2");
  EXPECT_EQ(text(MeshShape{}), "1 rank");
}

// Along its axis a group holds every index once, in order, and agrees on the other axes of its factoring.
TEST(Mesh, GroupsRunAlongTheirAxes) {
  for (const MeshShape& shape :
       {MeshShape{2, 2, 1, 2, 4, 1}, MeshShape{1, 2, 2, 2, 2, 2}, MeshShape{3, 1, 2, 1, 2, 1},
        MeshShape{1, 1, 1, 4, 1, 1}, MeshShape{2, 3, 1, 1, 3, 1}}) {
    run_local_ranks(shape.ranks(), [&](ProcessGroup& world) {
      const Mesh mesh(world, shape);
      for (const Axis axis : all_axes) {
        ProcessGroup& group = mesh.group(axis);
        EXPECT_EQ(group.size(), shape.size(axis));
        EXPECT_EQ(group.rank(), mesh.index(axis));
        const auto members = group.all_gather(static_cast<double>(world.rank()));
        const bool expert = axis == Axis::edp || axis == Axis::ep || axis == Axis::etp;
        for (std::size_t i = 0; i < members.size(); ++i) {
          const MeshPlace place = place_of(shape, static_cast<int>(members[i]));
          EXPECT_EQ(place[static_cast<std::size_t>(axis)], static_cast<int>(i));
          for (const Axis other : all_axes) {
            const bool same_factoring =
                other == Axis::pp ||
                expert == (other == Axis::edp || other == Axis::ep || other == Axis::etp);
            if (other != axis && same_factoring) {
              EXPECT_EQ(place[static_cast<std::size_t>(other)], mesh.index(other));
            }
          }
        }
      }
      EXPECT_EQ(mesh.replicas().size(), shape.dp * shape.cp);
      EXPECT_EQ(mesh.replicas().rank(), mesh.index(Axis::dp) * shape.cp + mesh.index(Axis::cp));
      EXPECT_EQ(mesh.replicas().sum(mesh.index(Axis::tp)), shape.dp * shape.cp * mesh.index(Axis::tp));
    });
  }
}

std::string refusal(const MeshRequest& request, const MeshLimits& limits, int ranks) {
  try {
    plan_mesh(request, limits, ranks);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
}

TEST(Mesh, WhatDoesNotFitIsRefusedWithWhatWould) {
  const MeshLimits limits{8, 12, 4, 6, 64, 96};
  const auto request = [](int pp, int cp, int tp, int ep = 1, int etp = 1) {
    return MeshRequest{pp, cp, tp, ep, etp, {}};
  };
  EXPECT_EQ(plan_mesh(request(2, 1, 2, 3), limits, 12), (MeshShape{2, 3, 1, 2, 3, 1}));
  EXPECT_EQ(plan_mesh(request(1, 1, 12), limits, 12),
            (MeshShape{1, 1, 1, 12, 1, 1}));  // a KV head on three ranks
  EXPECT_EQ(refusal(request(9, 1, 1), limits, 9), "parallel.pp 9 does not fit 8 layers; it may be 1 to 8");
  EXPECT_EQ(refusal(request(1, 1, 5), limits, 5),
            "parallel.tp 5 does not divide 12 attention heads; it may be 1, 2, 3, 4, 6, 12");
  EXPECT_EQ(refusal(request(1, 1, 6), limits, 6),
            "parallel.tp 6 neither divides 4 KV heads nor is a multiple of them; it may be 1, 2, 4, 12");
  EXPECT_NE(refusal(request(1, 5, 1), limits, 5)
                .find("parallel.cp 5: 2 × cp pieces do not divide a sequence of 96"),
            std::string::npos);
  EXPECT_EQ(refusal(request(2, 1, 2), limits, 6), "6 ranks are not a multiple of pp 2 × cp 1 × tp 2 = 4");
  EXPECT_EQ(refusal({2, 1, 2, 1, 1, 3}, limits, 8),
            "parallel.dp is 3, but 8 ranks leave 2 beside pp 2 × cp 1 × tp 2");
  EXPECT_NE(refusal(request(1, 1, 1, 4), limits, 8).find("does not divide 6 experts"), std::string::npos);
  EXPECT_NE(refusal(request(1, 1, 1, 3), limits, 8).find("does not divide the 8 ranks of dp × cp × tp"),
            std::string::npos);
  EXPECT_NE(refusal(request(1, 1, 1, 2), {8, 12, 4, 0, 1, 96}, 2).find("no experts"), std::string::npos);
}

// Axes that each fit a model make more ranks than an int counts.
TEST(Mesh, ProductsOfAxesDoNotOverflow) {
  const MeshLimits limits{16384, 65536, 65536, 65536, 65536, std::int64_t{1} << 30};
  EXPECT_EQ(refusal({16384, 1 << 20, 65536, 1, 1, {}}, limits, 4),
            "4 ranks are not a multiple of pp 16384 × cp 1048576 × tp 65536 = 1125899906842624");
  EXPECT_NE(refusal({1, 1, 1, 65536, 65536, {}}, limits, 4).find("does not divide the 4 ranks"),
            std::string::npos);
}

// Channels are summed over ranks: two that held the same one would count it twice. KV heads are not.
TEST(Shards, FewerUnitsThanRanksAreHeldAlikeOnlyWhereTheyMayBe) {
  const UnitRange head = units_of(2, {3, 4}, WhenFew::replicate);
  EXPECT_EQ(head.begin, 1);
  EXPECT_EQ(head.end, 2);
  EXPECT_EQ(head.replicas, 2);
  EXPECT_DEATH(units_of(2, {3, 4}), "replicate");

  ModelSpec spec;
  spec.vocab_size = 64;
  spec.hidden_size = 32;
  AttentionSpec attention;
  attention.heads = attention.kv_heads = 4;
  attention.head_dim = 8;
  spec.layers = {{{{}, attention}, {{}, FfnSpec{2}}}};
  LayoutRequest request;
  request.mesh.tp = 4;
  try {
    plan_layout(request, spec, {4, 4, 16}, 4);
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "parallel.tp 4 is more than the 2 channels of an FFN");
  }
  std::get<FfnSpec>(spec.layers[0][1].body).width = 4;
  EXPECT_EQ(plan_layout(request, spec, {4, 4, 16}, 4).mesh.tp, 4);
}

TEST(Mesh, DivisorsOfAnyNumber) {
  EXPECT_EQ(divisors(1), "1");
  EXPECT_EQ(divisors(36), "1, 2, 3, 4, 6, 9, 12, 18, 36");
  EXPECT_EQ(divisors(1'000'000'007), "1, 1000000007");
  EXPECT_EQ(
      divisors(1 << 30),
      "1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, "
      "524288, 1048576, 2097152, 4194304, 8388608, …, 1073741824");
}

}  // namespace
}  // namespace tessera
