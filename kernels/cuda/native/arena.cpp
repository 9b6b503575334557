#include "kernels/cuda/native/arena.h"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace tessera::cuda {
namespace {

std::size_t rounded(std::size_t bytes) {
  return (std::max<std::size_t>(bytes, 1) + Arena::alignment - 1) / Arena::alignment * Arena::alignment;
}

}  // namespace

void Arena::note_free(Parts::iterator part) {
  part->second.free = true;
  free_.emplace(part->second.bytes, part->first);
}

bool Arena::grow(std::size_t bytes) {
  auto* address = static_cast<std::byte*>(make_(bytes));
  if (address == nullptr) return false;
  reserved_ += bytes;
  note_free(parts_.emplace(address, Part{bytes, true, true}).first);
  return true;
}

bool Arena::reserve(std::size_t bytes) {
  return grow(rounded(bytes));
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  auto best = free_.lower_bound({size, nullptr});
  if (best == free_.end()) {
    if (!grow(std::max(size, segment_bytes_)) && (size >= segment_bytes_ || !grow(size))) return nullptr;
    best = free_.lower_bound({size, nullptr});
  }
  const auto part = parts_.find(best->second);
  free_.erase(best);
  part->second.free = false;
  if (part->second.bytes > size) {
    const Part rest{part->second.bytes - size, true, false};
    part->second.bytes = size;
    note_free(parts_.emplace(part->first + size, rest).first);
  }
  return part->first;
}

void Arena::release(void* address) {
  auto part = parts_.find(static_cast<std::byte*>(address));
  assert(part != parts_.end() && !part->second.free);
  const auto next = std::next(part);
  if (next != parts_.end() && next->second.free && !next->second.first &&
      part->first + part->second.bytes == next->first) {
    free_.erase({next->second.bytes, next->first});
    part->second.bytes += next->second.bytes;
    parts_.erase(next);
  }
  if (!part->second.first && part != parts_.begin()) {
    const auto before = std::prev(part);
    if (before->second.free) {
      free_.erase({before->second.bytes, before->first});
      before->second.bytes += part->second.bytes;
      parts_.erase(part);
      part = before;
    }
  }
  note_free(part);
}

std::size_t Arena::largest_free() const {
  return free_.empty() ? 0 : free_.rbegin()->first;
}

}  // namespace tessera::cuda
