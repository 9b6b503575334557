#include "tests/emulation/device.h"

#include <cstring>
#include <limits>
#include <mutex>
#include <set>

#include "core/base/error.h"
#include "tests/emulation/guarded_memory.h"
#include "tests/seed.h"

namespace tessera::emulation {
namespace {

constexpr int compute = 0;                                   // the number of Device::stream()
constexpr std::size_t kept_aside = std::size_t{32} << 20;    // bytes of released memory
constexpr std::size_t largest_aside = std::size_t{1} << 20;  // of one allocation

// Of all devices of the process: libraries are given handles.
struct LiveStreams {
  std::mutex mutex;
  std::set<KernelStream*> all;
};
LiveStreams& live_streams() {
  static LiveStreams streams;
  return streams;
}

const std::byte* bytes_at(const void* address) {
  return static_cast<const std::byte*>(address);
}

// Whether the bytes, in no memory of the device that asks, are another's. Throws as find() does.
bool is_of_peer(const void* address, std::size_t bytes, const char* doing) {
  const std::optional<GuardedRange> range = guarded_at(address);
  if (!range) return false;
  if (range->retired) fail("emulated device: {} memory that another device has released", doing);
  const auto offset = static_cast<std::size_t>(bytes_at(address) - range->begin);
  if (offset + bytes > range->bytes)
    fail("emulated device: {} {} bytes at byte {} of another device's allocation of {}", doing, bytes, offset,
         range->bytes);
  return true;
}

[[noreturn]] void fail_of_address(const void* address, const char* what) {
  fail("emulated device: {} is given {}", what,
       is_of_peer(address, 0, what) ? "memory of another device"
                                    : "an address that is in no allocation of its device");
}

}  // namespace

class EmulatedCudaDevice::EmulatedStream : public KernelStream {
 public:
  explicit EmulatedStream(EmulatedCudaDevice& device)
      : device_(device), number_(device.hazards_.add_stream()) {
    const std::lock_guard lock(live_streams().mutex);
    live_streams().all.insert(this);
  }
  ~EmulatedStream() override {
    device_.hazards_.synchronize(number_);
    const std::lock_guard lock(live_streams().mutex);
    live_streams().all.erase(this);
  }

  void synchronize() override {
    device_.not_in_graph("waits for the device");
    device_.throw_noted();
    if (device_.while_waiting) device_.while_waiting(0);
    ++device_.host_waits_;
    device_.hazards_.synchronize(number_);
    device_.deliver(std::numeric_limits<std::uint64_t>::max());
  }
  void synchronize(std::uint64_t event) override {
    device_.not_in_graph("waits for an event");
    device_.throw_noted();
    if (device_.while_waiting) device_.while_waiting(0);
    device_.hazards_.note_reached(event);
    device_.deliver(event);
  }
  std::uint64_t record() override {
    device_.not_in_graph("records an event");
    const std::uint64_t event = device_.hazards_.record(number_);
    device_.next_event_ = event + 1;
    return event;
  }
  void wait(std::uint64_t event) override {
    device_.not_in_graph("makes a stream wait for an event");
    device_.hazards_.wait(number_, event);
  }
  // Drawn, as nothing here takes time: what asks must cope with either answer.
  bool reached(std::uint64_t event) override {
    device_.not_in_graph("asks for an event");
    if (device_.random_.next() % 2 == 0) return false;
    device_.hazards_.note_reached(event);
    return true;
  }
  bool kept_for_graph(std::function<void()> work) override {
    if (number_ != compute) device_.not_in_graph("launches a kernel on another stream");
    return device_.kept_for_graph(std::move(work));
  }
  void begin_kernel(std::span<const PointerParameter> pointers) override {
    device_.begin_kernel(number_, pointers);
  }
  void end_kernel(std::span<const PointerParameter> pointers) override { device_.end_kernel(pointers); }
  void transfer(std::span<const Transfer> pieces) override {
    device_.not_in_graph("calls a library that moves memory");
    device_.transfer(number_, pieces);
  }
  std::uint64_t next_seed() override { return device_.random_.next(); }

 private:
  EmulatedCudaDevice& device_;
  int number_;
};

KernelStream* stream_of(const void* native) {
  const std::lock_guard lock(live_streams().mutex);
  for (KernelStream* stream : live_streams().all)
    if (stream == native) return stream;
  return nullptr;
}

EmulatedCudaDevice::EmulatedCudaDevice(DeviceOptions options, std::uint64_t seed)
    : Device(DeviceKind::cuda, options),
      identity_name(Device::identity()),
      random_{seed + static_cast<std::uint64_t>(options.ordinal)},
      stream_(std::make_unique<EmulatedStream>(*this)) {
  for (const char* slot : {"matmul", "grouped_matmul", "attention_forward", "attention_backward"})
    wished_kernels[slot] = "plain";
}

EmulatedCudaDevice::~EmulatedCudaDevice() {
  for (const auto& [address, bytes] : released_) free_guarded(const_cast<std::byte*>(address), bytes);
}

std::unique_ptr<Stream> EmulatedCudaDevice::make_stream(bool) {
  return std::make_unique<EmulatedStream>(*this);
}

void EmulatedCudaDevice::throw_noted() {
  if (!noted_.empty()) fail("emulated device: {}", std::exchange(noted_, {}));
}

EmulatedCudaDevice::Allocations::iterator EmulatedCudaDevice::find(const void* address, std::size_t bytes,
                                                                   const char* doing) {
  const std::byte* at = bytes_at(address);
  if (auto above = live_.upper_bound(at); above != live_.begin()) {
    const auto allocation = std::prev(above);
    const auto offset = static_cast<std::size_t>(at - allocation->first);
    if (offset <= allocation->second.bytes) {
      if (offset + bytes > allocation->second.bytes)
        fail("emulated device: {} {} bytes at byte {} of an allocation of {}", doing, bytes, offset,
             allocation->second.bytes);
      if (allocation->second.released && !in_graph_)
        fail("emulated device: {} memory that has been released, and belongs to graphs", doing);
      return allocation;
    }
  }
  if (auto above = released_.upper_bound(at); above != released_.begin()) {
    const auto& [begin, size] = *std::prev(above);
    if (at < begin + size) fail("emulated device: {} memory that has been released", doing);
  }
  return live_.end();
}

void EmulatedCudaDevice::access(int stream, Allocations::iterator allocation, const void* address,
                                std::size_t bytes, bool write, const char* doing) {
  if (bytes == 0) return;
  const auto offset = static_cast<std::size_t>(bytes_at(address) - allocation->first);
  const std::string fault =
      hazards_.access(stream, allocation->second.history, {offset, offset + bytes}, write);
  if (!fault.empty())
    fail("emulated device: {} memory: in an allocation of {} bytes, {}", doing, allocation->second.bytes,
         fault);
}

void EmulatedCudaDevice::begin_kernel(int stream, std::span<const PointerParameter> pointers) {
  throw_noted();
  hazards_.begin(stream);
  for (const PointerParameter& pointer : pointers) {
    if (pointer.address == nullptr) continue;
    const auto allocation = find(pointer.address, 0, "a kernel is given");
    if (allocation == live_.end()) fail_of_address(pointer.address, "a kernel");
    const std::byte* end = allocation->first + allocation->second.bytes;
    access(stream, allocation, pointer.address, static_cast<std::size_t>(end - bytes_at(pointer.address)),
           pointer.written, "a kernel is given");
  }
}

void EmulatedCudaDevice::end_kernel(std::span<const PointerParameter> pointers) {
  for (const PointerParameter& pointer : pointers) {
    if (pointer.address == nullptr) continue;
    const auto allocation = find(pointer.address, 0, "a kernel is given");
    if (!guards_intact(allocation->first, allocation->second.bytes)) {
      ++violations_;
      fail("emulated kernel: wrote before or beyond an allocation of {} bytes", allocation->second.bytes);
    }
  }
}

void EmulatedCudaDevice::transfer(int stream, std::span<const Transfer> pieces) {
  throw_noted();
  hazards_.begin(stream);
  for (const Transfer& piece : pieces) {
    if (piece.bytes == 0) continue;
    const auto allocation = find(piece.address, piece.bytes, "a transfer is given");
    if (allocation == live_.end()) fail_of_address(piece.address, "a transfer");
    access(stream, allocation, piece.address, piece.bytes, piece.written, "a transfer is given");
  }
}

bool EmulatedCudaDevice::touch(const void* address, std::size_t bytes, bool write, const char* doing) {
  const auto allocation = find(address, bytes, doing);
  if (allocation == live_.end()) return !is_of_peer(address, bytes, doing);
  access(compute, allocation, address, bytes, write, doing);
  return false;
}

bool EmulatedCudaDevice::kept_for_graph(std::function<void()> work) {
  if (captured_ == nullptr) {
    if (!in_graph_) ++launches_;
    return false;
  }
  captured_->push_back(std::move(work));
  return true;
}

void EmulatedCudaDevice::not_in_graph(const char* doing) const {
  if (captured_ != nullptr) fail("emulated device: work captured as a graph {}", doing);
}

class EmulatedCudaDevice::EmulatedGraph : public Graph {
 public:
  EmulatedGraph(EmulatedCudaDevice& device, std::vector<std::function<void()>> work)
      : device_(device), work_(std::move(work)) {
    ++device_.graphs_;
  }
  ~EmulatedGraph() override { device_.drop_graph(); }
  void launch() override { device_.launch(*this); }
  const std::vector<std::function<void()>>& work() const { return work_; }

 private:
  EmulatedCudaDevice& device_;
  std::vector<std::function<void()>> work_;
};

std::unique_ptr<Graph> EmulatedCudaDevice::capture(const std::function<void()>& work) {
  throw_noted();
  not_in_graph("captures another");
  std::vector<std::function<void()>> captured;
  captured_ = &captured;
  try {
    work();
  } catch (...) {
    captured_ = nullptr;
    throw;
  }
  captured_ = nullptr;
  return std::make_unique<EmulatedGraph>(*this, std::move(captured));
}

void EmulatedCudaDevice::launch(const EmulatedGraph& graph) {
  not_in_graph("launches a graph");
  ++launches_;
  for (auto& [address, allocation] : live_)
    if (allocation.released) std::memset(const_cast<std::byte*>(address), 0xff, allocation.bytes);
  in_graph_ = true;
  try {
    for (const auto& one : graph.work()) one();
  } catch (...) {
    in_graph_ = false;
    throw;
  }
  in_graph_ = false;
}

void EmulatedCudaDevice::drop_graph() {
  if (--graphs_ > 0) return;
  for (auto allocation = live_.begin(); allocation != live_.end();) {
    const auto [address, found] = *allocation;
    allocation->second.of_graphs = false;
    const auto next = std::next(allocation);
    if (found.released) {
      live_.erase(allocation);
      free_later(const_cast<std::byte*>(address), found.bytes);
    }
    allocation = next;
  }
}

void EmulatedCudaDevice::copy(void* to, const void* from, std::size_t bytes) {
  const bool within = captured_ != nullptr && guarded_at(to) && guarded_at(from);
  if (captured_ != nullptr && !within) not_in_graph("exchanges data with the host");
  if (!kept_for_graph([=, this] { move(to, from, bytes); })) move(to, from, bytes);
}

void EmulatedCudaDevice::move(void* to, const void* from, std::size_t bytes) {
  throw_noted();
  if (bytes == 0) return;
  hazards_.begin(compute);
  touch(from, bytes, false, "copying from");  // from the host by slots, which it need not wait for
  if (touch(to, bytes, true, "copying to")) {
    ++host_waits_;
    hazards_.synchronize(compute);
  }
  std::memmove(to, from, bytes);
}

void EmulatedCudaDevice::copy_behind(void* pinned, const void* from, std::size_t bytes) {
  not_in_graph("copies to the host");
  throw_noted();
  hazards_.begin(compute);
  touch(from, bytes, false, "copying from");
  late_.push_back({static_cast<std::byte*>(pinned), {bytes_at(from), bytes_at(from) + bytes}, next_event_});
  std::memset(pinned, 0xff, bytes);  // NaN, to be seen where it is read too early
}

void EmulatedCudaDevice::deliver(std::uint64_t event) {
  while (!late_.empty() && late_.front().event <= event) {
    std::memcpy(late_.front().to, late_.front().content.data(), late_.front().content.size());
    late_.pop_front();
  }
}

void EmulatedCudaDevice::zero(void* address, std::size_t bytes) {
  if (!kept_for_graph([=, this] { fill_zero(address, bytes); })) fill_zero(address, bytes);
}

void EmulatedCudaDevice::fill_zero(void* address, std::size_t bytes) {
  throw_noted();
  if (bytes == 0) return;
  hazards_.begin(compute);
  const auto allocation = find(address, bytes, "zeroing");
  if (allocation == live_.end()) fail("emulated device: zeroing an address that is in no allocation of it");
  access(compute, allocation, address, bytes, true, "zeroing");
  std::memset(address, 0, bytes);
}

std::optional<std::size_t> EmulatedCudaDevice::available() const {
  return limit == 0 ? std::nullopt : std::optional(limit - memory().in_use);
}

void* EmulatedCudaDevice::do_allocate(std::size_t bytes) {
  if (limit != 0 && memory().in_use + bytes > limit) return nullptr;
  std::byte* address = make_guarded(bytes, sparse);
  if (address == nullptr) return nullptr;
  live_[address].bytes = bytes;
  live_[address].of_graphs = captured_ != nullptr;
  return address;
}

void EmulatedCudaDevice::do_release(void* released, std::size_t bytes) noexcept {
  auto* address = static_cast<std::byte*>(released);
  const auto allocation = live_.find(address);
  if (allocation->second.of_graphs) {
    allocation->second.released = true;
    return;
  }
  std::string fault = hazards_.release(compute, allocation->second.history);
  if (!guards_intact(address, bytes))
    fault = fmt::format("something wrote before or beyond an allocation of {} bytes", bytes);
  if (!fault.empty()) {
    ++violations_;
    if (noted_.empty()) noted_ = std::move(fault);
  }
  live_.erase(allocation);
  free_later(address, bytes);
}

// Keeps it aside for a while.
void EmulatedCudaDevice::free_later(std::byte* address, std::size_t bytes) {
  if (bytes > largest_aside) {
    free_guarded(address, bytes);
    return;
  }
  retire_guarded(address, bytes);
  released_[address] = bytes;
  released_order_.push_back(address);
  released_bytes_ += bytes;
  while (released_bytes_ > kept_aside) {
    const auto oldest = released_.find(released_order_.front());
    released_order_.pop_front();
    released_bytes_ -= oldest->second;
    free_guarded(const_cast<std::byte*>(oldest->first), oldest->second);
    released_.erase(oldest);
  }
}

std::unique_ptr<Device> make_emulated_device(DeviceOptions options) {
  return std::make_unique<EmulatedCudaDevice>(options, test_seed());
}

}  // namespace tessera::emulation
