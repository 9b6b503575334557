// A cuda device without a GPU: kernels are emulated, device memory is host memory that is watched.
//
// Every allocation lies between guard zones and is filled with NaN. Streams work eagerly, while their order
// is checked as if they did not: an access that no event or synchronisation orders after one that it
// conflicts with throws Error, as do kernels and copies given memory that is not live, and kernels that wrote
// into a guard zone (a build with AddressSanitizer stops at the access itself). A kernel counts as touching
// all bytes from each of its pointers to the end of the allocation.
//
// Memory of another emulated device of the process may be copied from and to, as between GPUs that are peers,
// but not given to kernels.
//
// Released memory is kept aside for a while, so that its use is told apart from that of host memory.
//
// A graph keeps what it is to do, and all memory allocated while it was captured: what of that has been
// released is NaN again at each launch, and nothing but graphs may touch it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor/device.h"
#include "tests/emulation/hazards.h"
#include "tests/emulation/launch.h"

namespace tessera::emulation {

class EmulatedCudaDevice : public Device {
 public:
  // `seed` draws the order in which blocks and threads run. Wishes for the plain kernels of matrix products
  // and attention.
  EmulatedCudaDevice(DeviceOptions options, std::uint64_t seed);
  ~EmulatedCudaDevice() override;

  Stream& stream() override { return *stream_; }
  std::unique_ptr<Stream> make_stream(bool urgent) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  void zero(void* address, std::size_t bytes) override;
  void copy_behind(void* pinned, const void* from, std::size_t bytes) override;
  bool has_graphs() const override { return true; }
  std::unique_ptr<Graph> capture(const std::function<void()>& work) override;

  std::string model() const override { return model_name; }
  std::string identity() const override { return identity_name; }
  std::string model_name = "emulated GPU";
  std::string identity_name;
  // Allocations from now on are zeros that take memory only where they are written, whatever their size.
  bool sparse = false;

  // Bytes that it has; 0: as many as are asked for.
  std::size_t limit = 0;
  std::optional<std::size_t> available() const override;

  // Allocations whose guard zones had changed, and those released too early, since the start.
  int violations() const { return violations_; }
  // How often the host waited for all work so far.
  int host_waits() const { return host_waits_; }
  // How often work was given by the host: kernels, copies, zeroing, and launches of graphs.
  std::uint64_t launches() const { return launches_; }

 protected:
  void* do_allocate(std::size_t bytes) override;
  void do_release(void* released, std::size_t bytes) noexcept override;

 private:
  class EmulatedStream;
  class EmulatedGraph;
  struct Allocation {
    std::size_t bytes = 0;
    AccessHistory history;
    bool of_graphs = false;
    bool released = false;  // but kept, for graphs
  };
  using Allocations = std::map<const std::byte*, Allocation>;

  void begin_kernel(int stream, std::span<const PointerParameter> pointers);
  void end_kernel(std::span<const PointerParameter> pointers);
  void transfer(int stream, std::span<const Transfer> pieces);
  // The live allocation that holds the bytes; end() for host memory. Throws for released memory, and for
  // bytes beyond an allocation.
  Allocations::iterator find(const void* address, std::size_t bytes, const char* doing);
  void access(int stream, Allocations::iterator allocation, const void* address, std::size_t bytes,
              bool write, const char* doing);
  // True if the bytes are the host's: of no emulated device.
  bool touch(const void* address, std::size_t bytes, bool write, const char* doing);
  void throw_noted();
  bool kept_for_graph(std::function<void()> work);
  void not_in_graph(const char* doing) const;
  void launch(const EmulatedGraph& graph);
  void drop_graph();
  void free_later(std::byte* address, std::size_t bytes);
  void move(void* to, const void* from, std::size_t bytes);
  void fill_zero(void* address, std::size_t bytes);
  // Copies that stay behind, up to an event.
  void deliver(std::uint64_t event);

  struct LateCopy {
    std::byte* to;
    std::vector<std::byte> content;
    std::uint64_t event;  // the first one after it
  };
  Random random_;
  Hazards hazards_;
  Allocations live_;
  std::map<const std::byte*, std::size_t> released_;  // address to bytes
  std::deque<const std::byte*> released_order_;
  std::size_t released_bytes_ = 0;
  std::string noted_;  // an error found where none may be thrown
  int violations_ = 0;
  int host_waits_ = 0;
  std::uint64_t launches_ = 0;
  int graphs_ = 0;
  std::vector<std::function<void()>>* captured_ = nullptr;  // while a graph is captured
  bool in_graph_ = false;                                   // while one is launched
  std::uint64_t next_event_ = 0;
  std::deque<LateCopy> late_;
  std::unique_ptr<Stream> stream_;
};

// Of the test's seed.
std::unique_ptr<Device> make_emulated_device(DeviceOptions options);

}  // namespace tessera::emulation
