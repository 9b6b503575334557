// The ranks of a job as a grid with named axes: its sizes, as plain values and pure functions.
//
// Dense layers see pp × dp × cp × tp, tp varying fastest over ranks, then cp, dp and pp, so that
// tensor-parallel ranks are neighbours on a node. Expert layers fold the same dp × cp × tp ranks of a stage
// into edp × ep × etp, etp fastest.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace tessera {

// pp: layers; dp: samples; cp: positions of a sequence; tp: heads, channels, vocabulary; and for experts ep:
// experts, etp: their channels, edp: what is left, where their parameters are replicated.
enum class Axis { pp, dp, cp, tp, edp, ep, etp };
inline constexpr int axes = 7;
const char* name_of(Axis axis);

struct MeshShape {
  int pp = 1, dp = 1, cp = 1, tp = 1;
  int ep = 1, etp = 1;
  int ranks() const { return pp * dp * cp * tp; }
  int edp() const { return dp * cp * tp / (ep * etp); }
  int size(Axis axis) const;
  bool operator==(const MeshShape&) const = default;
};
std::string text(
    const MeshShape& shape);  // "pp 2, dp 4, tp 2"; axes of one rank are left out, "1 rank" for none

// Where a rank lies: its index on every axis.
using MeshPlace = std::array<int, axes>;
MeshPlace place_of(const MeshShape& shape, int rank);

// What a config asks for; `dp` absent: whatever the ranks leave.
struct MeshRequest {
  int pp = 1, cp = 1, tp = 1, ep = 1, etp = 1;
  std::optional<int> dp;
};
// What the axes must divide.
struct MeshLimits {
  std::int64_t layers = 1, heads = 1, kv_heads = 1, experts = 0, expert_width = 1, seq_len = 1;
};

// Those of n that are multiples, for messages: "1, 2, 4, 8"; of very many the first ones, and n; or "none".
std::string divisors(std::int64_t n, std::int64_t multiple_of = 1);

// The mesh over `ranks`. Throws Error (usage) naming the axis that does not fit, and the values that would.
MeshShape plan_mesh(const MeshRequest& request, const MeshLimits& limits, int ranks);

}  // namespace tessera
