// The ranks of a job as a grid with named axes, and the groups of ranks along them.
//
// Dense layers see pp × dp × cp × tp, tp varying fastest over ranks, then cp, dp and pp, so that
// tensor-parallel ranks are neighbours on a node. Expert layers fold the same dp × cp × tp ranks of a stage
// into edp × ep × etp, etp fastest. A Mesh belongs to its rank's thread and makes its groups once; making one
// is collective.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "parallel/comm/communicator.h"

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

// The mesh over `ranks`. Throws Error (usage) naming the axis that does not fit, and the values that would.
MeshShape plan_mesh(const MeshRequest& request, const MeshLimits& limits, int ranks);

class Mesh {
 public:
  // Collective over `world`, which has shape.ranks() ranks and outlives the mesh.
  Mesh(ProcessGroup& world, const MeshShape& shape);

  const MeshShape& shape() const { return shape_; }
  int size(Axis axis) const { return shape_.size(axis); }
  int index(Axis axis) const { return place_[static_cast<std::size_t>(axis)]; }
  ProcessGroup& world() const { return world_; }
  // The ranks that differ from this one along `axis` alone, in its order.
  ProcessGroup& group(Axis axis) const { return *groups_[static_cast<std::size_t>(axis)]; }
  // The ranks that hold the same dense parameters: dp × cp, cp fastest. Their gradients add up.
  ProcessGroup& replicas() const { return *replicas_; }

 private:
  ProcessGroup& world_;
  MeshShape shape_;
  MeshPlace place_;
  std::array<std::unique_ptr<ProcessGroup>, axes> groups_;
  std::unique_ptr<ProcessGroup> replicas_;
};

}  // namespace tessera
