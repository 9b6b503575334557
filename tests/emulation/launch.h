// Runs an emulated kernel: its blocks one after another, on the calling thread, in an order drawn from a
// seed.
//
// A stream that kernels are launched on knows what memory there is; see device.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor/device.h"
#include "tests/emulation/block.h"

namespace tessera::emulation {

// A pointer parameter of a kernel.
struct PointerParameter {
  const void* address = nullptr;  // may be null: the kernel does not use it
  bool written = false;
};

// Bytes that a transfer reads or writes.
struct Transfer {
  const void* address = nullptr;
  std::size_t bytes = 0;
  bool written = false;
};

class KernelStream : public Stream {
 public:
  // Where a graph is being captured: keeps the work for its launches, and the caller does not do it. False
  // elsewhere.
  virtual bool kept_for_graph(std::function<void()> work) = 0;
  // Before and after a kernel with these pointers; throw Error for what the kernel may not do, or did.
  virtual void begin_kernel(std::span<const PointerParameter> pointers) = 0;
  virtual void end_kernel(std::span<const PointerParameter> pointers) = 0;
  // A transfer by a library, on this stream, that touches just these bytes.
  virtual void transfer(std::span<const Transfer> pieces) = 0;
  // A seed for the kernel's order.
  virtual std::uint64_t next_seed() = 0;
  void* native() override { return this; }
};

// The live stream of any emulated device that has this handle; null if none has. Any thread.
KernelStream* stream_of(const void* native);

// While one lives, its host thread runs only these blocks of each grid, by its number of blocks: for grids
// too large to run.
class OnlyBlocks {
 public:
  using Choice = std::function<std::vector<std::int64_t>(std::int64_t blocks)>;
  explicit OnlyBlocks(Choice choice);
  ~OnlyBlocks();
  OnlyBlocks(const OnlyBlocks&) = delete;
  OnlyBlocks& operator=(const OnlyBlocks&) = delete;
};

// Block 0, block ⌊blocks / 2⌋ and the last.
std::vector<std::int64_t> first_middle_last(std::int64_t blocks);

// `stream` must be a KernelStream, and live as long as a graph that is being captured.
void launch(Stream& stream, const BlockShape& shape, std::vector<PointerParameter> pointers, Block::Body body,
            std::shared_ptr<const void> arguments);

}  // namespace tessera::emulation
