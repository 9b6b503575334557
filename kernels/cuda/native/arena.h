// Hands out parts of a few large segments of memory: allocation without asking the driver.
//
// Knows addresses only, never touches the memory, so it serves any device. A released part may be handed out
// again at once: whoever uses the memory in one order (a stream) needs no more. The rank's thread only.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>

namespace tessera::cuda {

class Arena {
 public:
  static constexpr std::size_t alignment = 512;
  // Makes a segment of so many bytes, aligned as above; nullptr where there is no more.
  using MakeSegment = std::function<void*(std::size_t bytes)>;

  // Segments are of `segment_bytes`, or as large as an allocation that needs more.
  Arena(MakeSegment make, std::size_t segment_bytes)
      : make_(std::move(make)), segment_bytes_(segment_bytes) {}

  // From the smallest free part that holds it; nullptr where no segment can be made.
  void* allocate(std::size_t bytes);
  void release(void* address);
  // While on, allocations are held: what they take is handed out to other such allocations only, also when it
  // has been released, until free_held().
  void hold(bool on) { holding_ = on; }
  void free_held();
  // A segment of at least so many bytes before anything asks: one for all that a run will need.
  bool reserve(std::size_t bytes);

  std::size_t reserved() const { return reserved_; }  // bytes of all segments
  std::size_t largest_free() const;
  std::size_t held_free() const;  // bytes that are free for held allocations only

 private:
  struct Part {
    std::size_t bytes = 0;
    bool free = false;
    bool first = false;  // of its segment: never joined with what lies before
    bool held = false;
  };
  using Parts = std::map<std::byte*, Part>;
  using Free = std::set<std::pair<std::size_t, std::byte*>>;  // by size, then address
  bool grow(std::size_t bytes);
  Parts::iterator take_free(std::size_t bytes);
  Free& free_like(const Part& part) { return part.held ? held_free_ : free_; }
  void note_free(Parts::iterator part);
  bool join_next(Parts::iterator part);

  MakeSegment make_;
  std::size_t segment_bytes_;
  std::size_t reserved_ = 0;
  bool holding_ = false;
  Parts parts_;  // of all segments, by address
  Free free_, held_free_;
};

}  // namespace tessera::cuda
