#include "parallel/mesh.h"

#include <algorithm>

namespace tessera {

Mesh::Mesh(ProcessGroup& world, const MeshShape& shape)
    : world_(world), shape_(shape), place_(place_of(shape, world.rank())) {
  assert(world.size() == shape.ranks());
  // Ranks of one group agree on every index of the same factoring but the group's own.
  const auto split_along = [&](std::initializer_list<Axis> own, std::initializer_list<Axis> factoring) {
    int color = 0;
    for (const Axis axis : factoring) {
      const bool varies = std::find(own.begin(), own.end(), axis) != own.end();
      color = color * size(axis) + (varies ? 0 : index(axis));
    }
    return world.split(color, world.rank());
  };
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp})
    groups_[static_cast<std::size_t>(axis)] = split_along({axis}, {Axis::pp, Axis::dp, Axis::cp, Axis::tp});
  for (const Axis axis : {Axis::edp, Axis::ep, Axis::etp})
    groups_[static_cast<std::size_t>(axis)] = split_along({axis}, {Axis::pp, Axis::edp, Axis::ep, Axis::etp});
  replicas_ = split_along({Axis::dp, Axis::cp}, {Axis::pp, Axis::dp, Axis::cp, Axis::tp});
}

}  // namespace tessera
