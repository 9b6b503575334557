// Where tensors live and kernels run. A rank owns its Device, and every tensor points to one: there is no
// current device and no process-wide allocator.
//
// A Device belongs to one rank: allocation and kernels are called from that rank's thread only. It outlives
// every tensor on it. Kinds: `cpu`; `cuda`; `meta`, which has shapes and byte counts but no memory, and on
// which kernels do nothing: what dry runs and memory estimates execute on. It may stand for another device,
// whose choice of kernels is then made and whose workspace is counted: what that device would refuse, a dry
// run refuses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/tensor/device_kind.h"

namespace tessera {

class Device;

struct DeviceOptions {
  int ordinal = 0;  // among the node's devices of this kind
  int threads = 1;  // of the pool
  // Bytes of a large temporary that is worked on at once: what caches hold; on a GPU what keeps it busy.
  std::size_t chunk_bytes = std::size_t{16} << 20;
  // Of a meta device: the one for which it counts bytes, and which outlives it; null: any CPU.
  Device* stands_for = nullptr;
};

// What memory is for: said where it runs out.
enum class MemoryUse : std::uint8_t { activations, weights, gradients, optimizer, workspace };
inline constexpr std::size_t memory_uses = 5;

struct MemoryCounters {
  std::size_t in_use = 0;                         // bytes of live allocations
  std::size_t peak = 0;                           // its largest value since the start or reset_peak()
  std::array<std::size_t, memory_uses> by_use{};  // of in_use
};

// Orders work on a device. On a device that works eagerly, as the CPU does, every operation is complete on
// return.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() = 0;  // returns when all work given to it is done
  // The same for destructors: false where waiting failed, and work may still be under way.
  bool drain() noexcept;
  virtual void synchronize(std::uint64_t event) = 0;  // returns when that mark of any stream is reached
  virtual std::uint64_t record() = 0;                 // an event: a mark after the work given so far
  virtual void wait(
      std::uint64_t event) = 0;  // later work on this stream starts after that mark of any stream
  // Whether that mark of any stream has been reached; does not wait.
  virtual bool reached(std::uint64_t event) = 0;
  // The backend's own handle, for libraries that take one (a cudaStream_t); null where there is none.
  virtual void* native() { return nullptr; }
};

class EagerStream : public Stream {
 public:
  void synchronize() override {}
  void synchronize(std::uint64_t) override {}
  std::uint64_t record() override { return 0; }
  void wait(std::uint64_t) override {}
  bool reached(std::uint64_t) override { return true; }
};

// Work that a device was shown once, and does again at little cost to the host: see Device::capture.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;  // all of it, after the work given to Device::stream() so far
};

class Device {
 public:
  explicit Device(DeviceKind kind, DeviceOptions options);
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceKind kind() const { return kind_; }
  int ordinal() const { return options_.ordinal; }
  std::size_t chunk_bytes() const { return options_.chunk_bytes; }
  // The device that chooses kernels and knows their workspace: this one, but for a meta that stands for one.
  Device& modelled() { return options_.stands_for == nullptr ? *this : *options_.stands_for; }
  // What it is, "NVIDIA H100 80GB HBM3", and which one of all machines' devices.
  virtual std::string model() const;
  virtual std::string identity() const;
  ThreadPool& threads() { return threads_; }
  // Where kernels run, copies and zeroing included.
  virtual Stream& stream() = 0;
  // One more, whose work may overlap; an `urgent` one goes first. The device outlives it.
  virtual std::unique_ptr<Stream> make_stream(bool urgent);

  // 64-byte aligned, uninitialised; nullptr on meta and for 0 bytes. Throws Error when memory is exhausted,
  // with what holds how much.
  void* allocate(std::size_t bytes, MemoryUse use = MemoryUse::activations);
  void release(void* address, std::size_t bytes, MemoryUse use = MemoryUse::activations) noexcept;
  // What storage is for from now on; gives what it was for. See MemoryScope.
  MemoryUse set_use(MemoryUse use) { return std::exchange(use_, use); }
  MemoryUse use() const { return use_; }
  // Between memory of this device, or this device and the host, in the order of stream(). On return host
  // memory copied from may be changed, and host memory copied to holds its data.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void zero(void* address, std::size_t bytes) = 0;

  // Host memory that copies may run behind: 64-byte aligned, never null.
  virtual void* allocate_pinned(std::size_t bytes);
  virtual void release_pinned(void* address) noexcept;
  // As copy, from this device to pinned memory, but on return the data may still be to come: an event of
  // stream() tells.
  virtual void copy_behind(void* pinned, const void* from, std::size_t bytes) { copy(pinned, from, bytes); }

  // Whether it can capture.
  virtual bool has_graphs() const { return false; }
  // Notes what `work` gives to stream(), without doing it; a launch does it, on the same addresses. Meanwhile
  // `work` may neither exchange data with the host nor use another stream or an event: throws. Memory that
  // it allocates is kept for graphs until the last one is gone: what it releases, only others captured on the
  // device get. The device outlives its graphs.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& work);

  // Bytes that allocations may still take; nothing where that is not known.
  virtual std::optional<std::size_t> available() const { return {}; }
  // Takes memory for allocations to come, `bytes` in all, where that is worth while.
  virtual void reserve(std::size_t) {}

  const MemoryCounters& memory() const { return memory_; }
  void reset_peak() { memory_.peak = memory_.in_use; }

  // Candidate wished for per kernel slot (config key `kernels`), and what was chosen so far (kept in
  // checkpoints).
  std::map<std::string, std::string> wished_kernels;
  std::map<std::string, std::string> chosen_kernels;
  std::set<std::string> stood_in;  // slots of which the log has said that a slow kernel stands in

  // Called now and then while the host waits for the device, with the seconds waited so far, from the rank's
  // thread. What it throws ends the wait: for faults that no stream reports.
  std::function<void(double seconds)> while_waiting;

 protected:
  virtual void* do_allocate(std::size_t bytes) = 0;  // nullptr when out of memory
  virtual void do_release(void* address, std::size_t bytes) noexcept = 0;

 private:
  DeviceKind kind_;
  DeviceOptions options_;
  ThreadPool threads_;
  MemoryCounters memory_;
  MemoryUse use_ = MemoryUse::activations;
};

// While one lives, storage of the device is for that use.
class MemoryScope {
 public:
  MemoryScope(Device& device, MemoryUse use) : device_(device), before_(device.set_use(use)) {}
  ~MemoryScope() { device_.set_use(before_); }
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  Device& device_;
  MemoryUse before_;
};

// Backends register themselves when they are linked in; `meta` is always there.
struct DeviceBackend {
  std::unique_ptr<Device> (*make)(DeviceOptions);
  int (*count)();  // devices of this node that this process may use: at least 1, or throws Error
};
struct RegisterDevice {
  RegisterDevice(DeviceKind kind, DeviceBackend backend);
};
// Both throw Error for a kind that this build does not have, saying how to get it.
std::unique_ptr<Device> make_device(DeviceKind kind, DeviceOptions options = {});
int device_count(DeviceKind kind);

}  // namespace tessera
