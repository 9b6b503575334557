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

std::unique_ptr<Stream> Device::make_stream(bool) {
  return std::make_unique<EagerStream>();
}

void* Device::allocate_pinned(std::size_t bytes) {
  void* address = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (address == nullptr) throw std::bad_alloc();
  return address;
}

void Device::release_pinned(void* address) noexcept {
  std::free(address);
}

void* Device::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* address = do_allocate(bytes);
  if (address == nullptr && kind_ != DeviceKind::meta)
    fail(
        "out of memory on device {} {}: {} asked for, {} in use; lower micro_batch or seq_len, or set "
        "recompute: full",
        tessera::name(kind_), ordinal(), bytes_text(static_cast<double>(bytes)),
        bytes_text(static_cast<double>(memory_.in_use)));
  memory_.in_use += bytes;
  memory_.peak = std::max(memory_.peak, memory_.in_use);
  return address;
}

void Device::release(void* address, std::size_t bytes) noexcept {
  memory_.in_use -= bytes;
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
