// A GPU as a device: memory from an arena, one stream for kernels and copies, more on request.

#include <cuda_runtime.h>

#include <deque>

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"
#include "kernels/cuda/native/arena.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/libraries.h"

namespace tessera::cuda {
namespace {

const char* advice(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use train.device: cpu";
    case cudaErrorInsufficientDriver:
      return "; install a newer NVIDIA driver";
    case cudaErrorNoKernelImageForDevice:
      return "; build with this GPU's architecture in TESSERA_CUDA_ARCHITECTURES";
    case cudaErrorMemoryAllocation:
      return "; lower micro_batch or seq_len, or set recompute: full";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
      return "; run again with CUDA_LAUNCH_BLOCKING=1 under compute-sanitizer to see where";
    default:
      return "";
  }
}

// Marks of all streams of a device, by number.
class Events {
 public:
  ~Events() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  std::uint64_t record(cudaStream_t stream) {
    if (events_.size() == kept) {  // the oldest is long past: its mark is not waited for any more
      check(cudaEventSynchronize(events_.front()), "waiting for an event");
      events_.push_back(events_.front());
      events_.pop_front();
      ++dropped_;
    } else {
      check(cudaEventCreateWithFlags(&events_.emplace_back(), cudaEventDisableTiming), "making an event");
    }
    check(cudaEventRecord(events_.back(), stream), "recording an event");
    return dropped_ + events_.size() - 1;
  }
  void wait(cudaStream_t stream, std::uint64_t event) {
    if (event < dropped_) return;  // it has happened
    check(cudaStreamWaitEvent(stream, events_[static_cast<std::size_t>(event - dropped_)], 0),
          "waiting for an event");
  }

 private:
  static constexpr std::size_t kept = 256;
  std::deque<cudaEvent_t> events_;
  std::uint64_t dropped_ = 0;
};

class CudaStream : public Stream {
 public:
  CudaStream(std::shared_ptr<Events> events, bool urgent) : events_(std::move(events)) {
    int least = 0;
    int greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for stream priorities");
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, urgent ? greatest : least),
          "making a stream");
  }
  ~CudaStream() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  void synchronize() override { check(cudaStreamSynchronize(stream_), "running kernels"); }
  std::uint64_t record() override { return events_->record(stream_); }
  void wait(std::uint64_t event) override { events_->wait(stream_, event); }
  cudaStream_t native() const { return stream_; }

 private:
  std::shared_ptr<Events> events_;
  cudaStream_t stream_ = nullptr;
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(DeviceOptions options)
      : Device(DeviceKind::cuda, options),
        arena_([this](std::size_t bytes) { return make_segment(bytes); }, segment_bytes) {
    check(cudaSetDevice(options.ordinal), "selecting the GPU");
    events_ = std::make_shared<Events>();
    stream_ = std::make_unique<CudaStream>(events_, false);
  }
  ~CudaDevice() override {
    libraries_ = {};
    stream_.reset();
    for (void* segment : segments_) cudaFree(segment);
  }

  DeviceLibraries& libraries() { return libraries_; }
  Stream& stream() override { return *stream_; }
  std::unique_ptr<Stream> make_stream(bool urgent) override {
    return std::make_unique<CudaStream>(events_, urgent);
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_->native()), "copying");
    if (!on_device(to) || !on_device(from)) stream_->synchronize();
  }
  void zero(void* address, std::size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(address, 0, bytes, stream_->native()), "zeroing memory");
  }

 protected:
  void* do_allocate(std::size_t bytes) override { return arena_.allocate(bytes); }
  void do_release(void* address, std::size_t) noexcept override { arena_.release(address); }

 private:
  static constexpr std::size_t segment_bytes = std::size_t{1} << 30;

  void* make_segment(std::size_t bytes) {
    void* address = nullptr;
    const cudaError_t error = cudaMalloc(&address, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not an error of what comes next
      return nullptr;
    }
    check(error, "allocating memory");
    segments_.push_back(address);
    return address;
  }
  static bool on_device(const void* address) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, address), "asking where memory is");
    return attributes.type == cudaMemoryTypeDevice;
  }

  Arena arena_;
  std::vector<void*> segments_;
  std::shared_ptr<Events> events_;
  std::unique_ptr<CudaStream> stream_;
  DeviceLibraries libraries_;
};

int count_gpus() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for GPUs");
  return count;
}

const RegisterDevice register_cuda(DeviceKind::cuda, {[](DeviceOptions options) -> std::unique_ptr<Device> {
                                                        return std::make_unique<CudaDevice>(options);
                                                      },
                                                      count_gpus});

}  // namespace

void raise(cudaError_t error, const char* doing) {
  int device = -1;
  cudaGetDevice(&device);
  fail("CUDA device {}: {}: {}{}", device, doing, cudaGetErrorString(error), advice(error));
}

DeviceLibraries& libraries(Device& device) {
  return static_cast<CudaDevice&>(device).libraries();
}

cudaStream_t native_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream).native();
}

}  // namespace tessera::cuda
