#include "core/tensor/device.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>

#include "core/base/error.h"
#include "core/base/progress.h"

namespace tessera {
namespace {

constexpr std::size_t kinds = 3;

std::array<DeviceBackend, kinds>& backends() {
  static std::array<DeviceBackend, kinds> table{};
  return table;
}

const DeviceBackend& backend_of(DeviceKind kind) {
  const DeviceBackend& backend = backends()[static_cast<std::size_t>(kind)];
  if (backend.make == nullptr)
    fail_usage(
        "device '{}' is not in this build: install the CUDA toolkit and build again (cmake --preset release "
        "-DTESSERA_CUDA=ON), or compute on the CPU (train.device: cpu)",
        name(kind));
  return backend;
}

const char* name_of(MemoryUse use) {
  static constexpr std::array<const char*, memory_uses> names{"activations", "weights", "gradients",
                                                              "optimizer state", "workspace"};
  return names[static_cast<std::size_t>(use)];
}

// "3.1 GiB: 1.0 GiB weights, 2.1 GiB gradients"
std::string holdings(const MemoryCounters& memory) {
  std::string text = bytes_text(static_cast<double>(memory.in_use));
  const char* separator = ": ";
  for (std::size_t i = 0; i < memory_uses; ++i) {
    if (memory.by_use[i] == 0) continue;
    text +=
        fmt::format("{}{} {}", std::exchange(separator, ", "),
                    bytes_text(static_cast<double>(memory.by_use[i])), name_of(static_cast<MemoryUse>(i)));
  }
  return text;
}

class MetaDevice : public Device {
 public:
  explicit MetaDevice(DeviceOptions options) : Device(DeviceKind::meta, options) {}
  Stream& stream() override { return stream_; }
  void copy(void*, const void*, std::size_t) override {}
  void zero(void*, std::size_t) override {}

 protected:
  void* do_allocate(std::size_t) override { return nullptr; }
  void do_release(void*, std::size_t) noexcept override {}

 private:
  EagerStream stream_;
};

const RegisterDevice register_meta(DeviceKind::meta, {[](DeviceOptions options) -> std::unique_ptr<Device> {
                                                        return std::make_unique<MetaDevice>(options);
                                                      },
                                                      [] { return 1; }});

}  // namespace

const char* name(DeviceKind kind) {
  return kind == DeviceKind::cpu ? "cpu" : kind == DeviceKind::cuda ? "cuda" : "meta";
}

Device::Device(DeviceKind kind, DeviceOptions options)
    : kind_(kind), options_(options), threads_(std::max(1, options.threads)) {}
Device::~Device() = default;

std::string Device::model() const {
  return tessera::name(kind_);
}
std::string Device::identity() const {
  return fmt::format("{} {}", tessera::name(kind_), ordinal());
}

bool Stream::drain() noexcept {
  try {
    synchronize();
    return true;
  } catch (const std::exception&) {  // of which others tell
    return false;
  }
}

std::unique_ptr<Stream> Device::make_stream(bool) {
  return std::make_unique<EagerStream>();
}

std::unique_ptr<Graph> Device::capture(const std::function<void()>&) {
  fail("a device of kind {} has no graphs", name(kind_));
}

void* Device::allocate_pinned(std::size_t bytes) {
  void* address = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (address == nullptr) throw std::bad_alloc();
  return address;
}

void Device::release_pinned(void* address) noexcept {
  std::free(address);
}

void* Device::allocate(std::size_t bytes, MemoryUse use) {
  if (bytes == 0) return nullptr;
  void* address = do_allocate(bytes);
  if (address == nullptr && kind_ != DeviceKind::meta)
    fail(
        "out of memory on device {} {}: {} asked for {}; in use {}; lower train.micro_batch or data.seq_len, "
        "set train.recompute: full, or share more (parallel.zero, tp, pp)",
        tessera::name(kind_), ordinal(), bytes_text(static_cast<double>(bytes)), name_of(use),
        holdings(memory_));
  memory_.in_use += bytes;
  memory_.by_use[static_cast<std::size_t>(use)] += bytes;
  memory_.peak = std::max(memory_.peak, memory_.in_use);
  return address;
}

void Device::release(void* address, std::size_t bytes, MemoryUse use) noexcept {
  memory_.in_use -= bytes;
  memory_.by_use[static_cast<std::size_t>(use)] -= bytes;
  if (address != nullptr) do_release(address, bytes);
}

RegisterDevice::RegisterDevice(DeviceKind kind, DeviceBackend backend) {
  backends()[static_cast<std::size_t>(kind)] = backend;
}

std::unique_ptr<Device> make_device(DeviceKind kind, DeviceOptions options) {
  return backend_of(kind).make(options);
}

int device_count(DeviceKind kind) {
  return backend_of(kind).count();
}

}  // namespace tessera
