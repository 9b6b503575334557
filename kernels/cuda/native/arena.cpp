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
  free_like(part->second).emplace(part->second.bytes, part->first);
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

// The smallest free part that holds so many bytes; end() if there is none.
Arena::Parts::iterator Arena::take_free(std::size_t bytes) {
  for (Free* free : {&held_free_, &free_}) {
    if (free == &held_free_ && !holding_) continue;
    const auto best = free->lower_bound({bytes, nullptr});
    if (best == free->end()) continue;
    const auto part = parts_.find(best->second);
    free->erase(best);
    part->second.free = false;
    return part;
  }
  return parts_.end();
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  auto part = take_free(size);
  if (part == parts_.end()) {
    if (!grow(std::max(size, segment_bytes_)) && (size >= segment_bytes_ || !grow(size))) return nullptr;
    part = take_free(size);
  }
  if (part->second.bytes > size) {
    const Part rest{part->second.bytes - size, true, false, part->second.held};
    part->second.bytes = size;
    note_free(parts_.emplace(part->first + size, rest).first);
  }
  part->second.held = part->second.held || holding_;
  return part->first;
}

// Joins a part that is about to be free with the one behind it, if that is free and of its kind.
bool Arena::join_next(Parts::iterator part) {
  const auto next = std::next(part);
  if (next == parts_.end() || !next->second.free || next->second.first ||
      next->second.held != part->second.held || part->first + part->second.bytes != next->first)
    return false;
  free_like(next->second).erase({next->second.bytes, next->first});
  part->second.bytes += next->second.bytes;
  parts_.erase(next);
  return true;
}

void Arena::release(void* address) {
  auto part = parts_.find(static_cast<std::byte*>(address));
  assert(part != parts_.end() && !part->second.free);
  join_next(part);
  if (!part->second.first && part != parts_.begin()) {
    const auto before = std::prev(part);
    if (before->second.free && before->second.held == part->second.held) {
      free_like(before->second).erase({before->second.bytes, before->first});
      before->second.bytes += part->second.bytes;
      parts_.erase(part);
      part = before;
    }
  }
  note_free(part);
}

void Arena::free_held() {
  free_.clear();
  held_free_.clear();
  for (auto& [address, part] : parts_) part.held = false;
  for (auto part = parts_.begin(); part != parts_.end(); ++part) {
    if (!part->second.free) continue;
    while (join_next(part)) {
    }
    note_free(part);
  }
}

std::size_t Arena::held_free() const {
  std::size_t bytes = 0;
  for (const auto& [size, address] : held_free_) bytes += size;
  return bytes;
}

std::size_t Arena::largest_free() const {
  return free_.empty() ? 0 : free_.rbegin()->first;
}

}  // namespace tessera::cuda
