#include "kernels/cuda/native/staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/native/check.h"

namespace tessera::cuda {

Staging::~Staging() {
  if (slots_.empty()) return;
  cudaStreamSynchronize(stream_);
  for (const Slot& slot : slots_) cudaEventDestroy(slot.sent);
  cudaFreeHost(slots_[0].memory);
}

void Staging::make_slots() {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, slots * slot_bytes), "allocating pinned memory");
  for (std::size_t i = 0; i < slots; ++i) {
    Slot& slot = slots_.emplace_back();
    slot.memory = static_cast<std::byte*>(memory) + i * slot_bytes;
    check(cudaEventCreateWithFlags(&slot.sent, cudaEventDisableTiming), "making an event");
  }
}

void Staging::copy(void* to, const void* from, std::size_t bytes) {
  if (slots_.empty()) make_slots();
  for (std::size_t at = 0; at < bytes; at += slot_bytes) {
    const std::size_t part = std::min(slot_bytes, bytes - at);
    const Slot& slot = slots_[next_];
    next_ = (next_ + 1) % slots;
    wait_(slot.sent);  // no wait if it was never recorded
    std::memcpy(slot.memory, static_cast<const std::byte*>(from) + at, part);
    check(
        cudaMemcpyAsync(static_cast<std::byte*>(to) + at, slot.memory, part, cudaMemcpyHostToDevice, stream_),
        "copying to the GPU");
    check(cudaEventRecord(slot.sent, stream_), "recording an event");
  }
}

}  // namespace tessera::cuda
