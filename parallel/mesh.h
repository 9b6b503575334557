// The groups of ranks along the axes of a mesh (parallel/mesh_shape.h).
//
// A Mesh belongs to its rank's thread and makes its groups once; making one is collective.
#pragma once

#include <array>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/mesh_shape.h"

namespace tessera {

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
