#include "checkpoint/slab.h"

#include <algorithm>

namespace tessera {

Slab whole(const std::vector<std::int64_t>& shape) {
  return {std::vector<std::int64_t>(shape.size(), 0), shape};
}

std::int64_t elements(const std::vector<std::int64_t>& extent) {
  std::int64_t n = 1;
  for (const std::int64_t e : extent) n *= e;
  return n;
}

std::optional<Slab> intersection(const Slab& a, const Slab& b) {
  Slab part;
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    const std::int64_t begin = std::max(a.offset[d], b.offset[d]);
    const std::int64_t end = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
    if (begin >= end) return std::nullopt;
    part.offset.push_back(begin);
    part.extent.push_back(end - begin);
  }
  return part;
}

bool lies_within(const Slab& slab, const std::vector<std::int64_t>& shape) {
  if (slab.offset.size() != shape.size() || slab.extent.size() != shape.size()) return false;
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (slab.offset[d] < 0 || slab.extent[d] < 0 || slab.offset[d] > shape[d] - slab.extent[d]) return false;
  return true;
}

std::string text(const std::vector<std::int64_t>& shape) {
  std::string result = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) result += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
  return result + "]";
}

// Boxes that are within the tensor, do not overlap, and hold as many elements as it has, tile it.
std::string tiling_defect(const std::vector<std::int64_t>& shape, const std::vector<Slab>& slabs) {
  std::int64_t total = 0;
  for (std::size_t i = 0; i < slabs.size(); ++i) {
    if (!lies_within(slabs[i], shape))
      return "the slab at " + text(slabs[i].offset) + " of extent " + text(slabs[i].extent) +
             " leaves shape " + text(shape);
    for (std::size_t j = 0; j < i; ++j)
      if (intersection(slabs[i], slabs[j]))
        return "the slabs at " + text(slabs[j].offset) + " and " + text(slabs[i].offset) + " overlap";
    total += elements(slabs[i].extent);
  }
  if (total != elements(shape))
    return "its slabs hold " + std::to_string(total) + " of " + std::to_string(elements(shape)) + " elements";
  return "";
}

namespace {

// Row-major index of `at` within `box`.
std::int64_t position(const std::vector<std::int64_t>& at, const Slab& box) {
  std::int64_t index = 0;
  for (std::size_t d = 0; d < at.size(); ++d) index = index * box.extent[d] + (at[d] - box.offset[d]);
  return index;
}

}  // namespace

void for_each_run(const Slab& part, const Slab& outer, const Slab& other,
                  const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& run) {
  const std::size_t rank = part.offset.size();
  // Trailing dimensions that fill both boxes join into one run.
  std::size_t split = rank;
  std::int64_t count = 1;
  while (split > 0) {
    --split;
    count *= part.extent[split];
    if (part.extent[split] != outer.extent[split] || part.extent[split] != other.extent[split]) break;
  }
  std::vector<std::int64_t> at = part.offset;
  while (true) {
    run(position(at, outer), position(at, other), count);
    std::size_t d = split;
    while (d > 0) {
      --d;
      if (++at[d] < part.offset[d] + part.extent[d]) break;
      at[d] = part.offset[d];
      if (d == 0) return;
    }
    if (split == 0) return;
  }
}

}  // namespace tessera
