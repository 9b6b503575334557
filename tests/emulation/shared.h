// The shared memory of an emulated block: arrays whose every access is checked.
//
// Two accesses of one element by different threads, one of them a write, must have a barrier between: a
// sync_threads(), or a warp operation where both threads are of one warp. Barriers are counted, and each
// element remembers its last write and the reads since, so a race is found whatever order the threads ran in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace tessera::emulation {

// A point in the run of a thread: barriers of its block, and operations of its warp, before it.
struct Moment {
  std::int32_t thread = 0;
  std::uint32_t block_epoch = 0;
  std::uint32_t warp_epoch = 0;
};

// The accesses of one element that matter to the next.
struct ElementHistory {
  Moment write;
  Moment read;  // the last, and any of the same warp operation if several_threads
  bool several_threads = false;
  bool several_warps = false;
};

struct SharedArray {
  int index = 0;  // in the order in which arrays are asked for
  std::int64_t size = 0;
  std::size_t element_bytes = 0;
  std::size_t offset = 0;
  std::byte* data = nullptr;
  std::vector<ElementHistory> history;
};

class SharedMemory {
 public:
  // Before a block: nothing is written. `epoch` is above that of any block before.
  void begin(std::size_t bytes, std::uint32_t epoch);
  // The array that a thread asks for as its `index`-th; the first to ask decides what it is.
  SharedArray& array(int index, std::int64_t size, std::size_t element_bytes);
  // Check and note an access; `i` may be anything.
  void read(SharedArray& array, std::int64_t i, Moment now) {
    if (i < 0 || i >= array.size) fail_outside(array, i, "reads");
    ElementHistory& element = array.history[static_cast<std::size_t>(i)];
    // Nearly every read comes after a barrier after the write.
    if (element.write.block_epoch - first_epoch_ >= now.block_epoch - first_epoch_) check_read(array, i, now);
    note_read(element, now);
  }
  void write(SharedArray& array, std::int64_t i, Moment now);

 private:
  [[noreturn]] static void fail_outside(const SharedArray& array, std::int64_t i, const char* does);
  void check_read(const SharedArray& array, std::int64_t i, Moment now) const;
  static void note_read(ElementHistory& element, Moment now);

  std::size_t bytes_ = 0;
  std::uint32_t first_epoch_ = 1;
  std::size_t arrays_used_ = 0;
  std::vector<std::unique_ptr<SharedArray>> arrays_;
  std::vector<std::byte> storage_;
};

inline void SharedMemory::note_read(ElementHistory& element, Moment now) {
  if (element.read.block_epoch < now.block_epoch) {
    element.read = now;
    element.several_threads = element.several_warps = false;
  } else if (element.several_warps) {
    return;
  } else if (element.read.thread >> 5 != now.thread >> 5) {
    element.several_warps = true;
  } else if (element.read.warp_epoch < now.warp_epoch) {
    element.read = now;
    element.several_threads = false;
  } else if (element.read.thread != now.thread) {
    element.several_threads = true;
  }
}

}  // namespace tessera::emulation
