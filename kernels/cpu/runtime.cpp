// The CPU as a device: host memory with a cache of freed blocks, and eager execution.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "core/tensor/device.h"

namespace tessera {
namespace {

constexpr std::size_t huge_page = std::size_t{1} << 21;

// Steps allocate the same sizes again and again: freed blocks wait in lists by size, so pages are faulted in
// once.
class CpuDevice : public Device {
 public:
  explicit CpuDevice(DeviceOptions options)
      : Device(DeviceKind::cpu, options), poison_(std::getenv("TESSERA_POISON") != nullptr) {}
  ~CpuDevice() override { drop_cache(); }
  Stream& stream() override { return stream_; }
  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void zero(void* address, std::size_t bytes) override {
    if (bytes > 0) std::memset(address, 0, bytes);
  }

 protected:
  void* do_allocate(std::size_t bytes) override {
    const std::size_t size = rounded(bytes);
    std::vector<void*>& free = cache_[size];
    void* address = nullptr;
    if (!free.empty()) {
      address = free.back();
      free.pop_back();
    } else {
      address = fresh(size);
      if (address == nullptr) {
        drop_cache();
        address = fresh(size);
      }
    }
    if (poison_ && address != nullptr) std::memset(address, 0xff, size);  // NaN in every float format
    return address;
  }
  void do_release(void* address, std::size_t bytes) noexcept override {
    cache_[rounded(bytes)].push_back(address);
  }

 private:
  static std::size_t rounded(std::size_t bytes) {
    const std::size_t unit = bytes >= huge_page ? huge_page : 256;
    return (bytes + unit - 1) / unit * unit;
  }
  static void* fresh(std::size_t size) {
    void* address = std::aligned_alloc(size >= huge_page ? huge_page : 64, size);
    if (address != nullptr && size >= huge_page) madvise(address, size, MADV_HUGEPAGE);
    return address;
  }
  void drop_cache() {
    for (auto& [size, free] : cache_)
      for (void* address : free) std::free(address);
    cache_.clear();
  }

  EagerStream stream_;
  std::map<std::size_t, std::vector<void*>> cache_;
  bool poison_;
};

const RegisterDevice register_cpu(DeviceKind::cpu, {[](DeviceOptions options) -> std::unique_ptr<Device> {
                                                      return std::make_unique<CpuDevice>(options);
                                                    },
                                                    [] { return 1; }});

}  // namespace
}  // namespace tessera
