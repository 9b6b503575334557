// Slabs: axis-aligned boxes of a global tensor, the unit in which checkpoints hold and hand out state.
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

// A box of a row-major tensor: `extent[d]` indices from `offset[d]` in each dimension. Rank 0 is one element.
struct Slab {
  std::vector<std::int64_t> offset, extent;
  bool operator==(const Slab&) const = default;
};

// The slab that is the whole of a tensor of this shape.
Slab whole(const std::vector<std::int64_t>& shape);
std::int64_t elements(const std::vector<std::int64_t>& extent);
std::optional<Slab> intersection(const Slab& a, const Slab& b);  // nullopt where they share no element
bool lies_within(const Slab& slab, const std::vector<std::int64_t>& shape);
std::string text(const std::vector<std::int64_t>& shape);  // "[4096, 1024]"

// Whether the slabs cover a tensor of this shape, every element once; empty if so, else what is wrong.
std::string tiling_defect(const std::vector<std::int64_t>& shape, const std::vector<Slab>& slabs);

// Calls run(at_outer, at_other, count), in elements, for each contiguous run of `part` (a slab within both
// boxes), in ascending order of both offsets: where it begins in `outer`'s and in `other`'s row-major order.
void for_each_run(const Slab& part, const Slab& outer, const Slab& other,
                  const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& run);

}  // namespace tessera
