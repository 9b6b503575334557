#include "tests/emulation/shared.h"

#include "tests/emulation/block.h"

namespace tessera::emulation {
namespace {

constexpr int warp_size = 32;

bool ordered(Moment before, Moment now) {
  if (before.thread == now.thread || before.block_epoch < now.block_epoch) return true;
  return before.thread / warp_size == now.thread / warp_size && before.warp_epoch < now.warp_epoch;
}

}  // namespace

void SharedMemory::begin(std::size_t bytes, std::uint32_t epoch) {
  bytes_ = bytes;
  first_epoch_ = epoch;
  arrays_used_ = 0;
  if (storage_.size() < bytes) storage_.resize(bytes);
}

SharedArray& SharedMemory::array(int index, std::int64_t size, std::size_t element_bytes) {
  const auto at = static_cast<std::size_t>(index);
  if (at < arrays_used_) {
    SharedArray& array = *arrays_[at];
    if (array.size != size || array.element_bytes != element_bytes)
      fail_here("asks for {} elements of {} bytes as shared array {}; another thread for {} of {}", size,
                element_bytes, index, array.size, array.element_bytes);
    return array;
  }
  std::size_t offset = 0;
  if (at > 0) {
    const SharedArray& last = *arrays_[at - 1];
    offset = last.offset + (static_cast<std::size_t>(last.size) * last.element_bytes + 15) / 16 * 16;
  }
  if (size < 0 || offset + static_cast<std::size_t>(size) * element_bytes > bytes_)
    fail_here("asks for {} elements of {} bytes as shared array {} after {} bytes of arrays; the grid has {}",
              size, element_bytes, index, offset, bytes_);
  if (arrays_.size() == at) arrays_.push_back(std::make_unique<SharedArray>());
  SharedArray& array = *arrays_[at];
  array.index = index;
  array.size = size;
  array.element_bytes = element_bytes;
  array.offset = offset;
  array.data = storage_.data() + offset;
  if (array.history.size() < static_cast<std::size_t>(size))
    array.history.resize(static_cast<std::size_t>(size));
  ++arrays_used_;
  return array;
}

void SharedMemory::fail_outside(const SharedArray& array, std::int64_t i, const char* does) {
  fail_here("{} element {} of shared array {}, which has {}", does, i, array.index, array.size);
}

void SharedMemory::check_read(const SharedArray& array, std::int64_t i, Moment now) const {
  const ElementHistory& element = array.history[static_cast<std::size_t>(i)];
  if (element.write.block_epoch < first_epoch_)
    fail_here("reads element {} of shared array {}, which no thread has written", i, array.index);
  if (!ordered(element.write, now))
    fail_here("reads element {} of shared array {}, which thread {} wrote with no barrier between", i,
              array.index, element.write.thread);
}

void SharedMemory::write(SharedArray& array, std::int64_t i, Moment now) {
  if (i < 0 || i >= array.size) fail_outside(array, i, "writes");
  ElementHistory& element = array.history[static_cast<std::size_t>(i)];
  if (element.write.block_epoch >= first_epoch_ && !ordered(element.write, now))
    fail_here("writes element {} of shared array {}, which thread {} wrote with no barrier between", i,
              array.index, element.write.thread);
  if (element.read.block_epoch == now.block_epoch) {
    if (element.several_warps)
      fail_here("writes element {} of shared array {}, which other warps read with no barrier between", i,
                array.index);
    const bool all_before =
        element.read.thread / warp_size == now.thread / warp_size && element.read.warp_epoch < now.warp_epoch;
    if (!all_before && (element.several_threads || element.read.thread != now.thread))
      fail_here("writes element {} of shared array {}, which {} read with no barrier between", i, array.index,
                element.several_threads ? "other threads of its warp"
                                        : fmt::format("thread {}", element.read.thread));
  }
  element.write = now;
  element.read.block_epoch = 0;
}

}  // namespace tessera::emulation
