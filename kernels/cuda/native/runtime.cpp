// A GPU as a device: memory from an arena, one stream for kernels and copies, more on request.

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <functional>
#include <set>
#include <thread>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"
#include "kernels/cuda/native/arena.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/graph.h"
#include "kernels/cuda/native/libraries.h"
#include "kernels/cuda/native/staging.h"

namespace tessera::cuda {
namespace {

const char* advice(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "; check nvidia-smi and CUDA_VISIBLE_DEVICES, or compute on the CPU (train.device: cpu)";
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

// Whether what was asked about is done, of a query's answer.
bool done(cudaError_t answer, const char* doing) {
  if (answer == cudaErrorNotReady) {
    cudaGetLastError();  // not an error of what comes next
    return false;
  }
  check(answer, doing);
  return true;
}

// Waits until the query says that all is done; asks `look`, where there is one, every hundredth of a second.
template <class Query>
void wait_for(Query query, const std::function<void(double)>& look) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  auto looked = start;
  while (!done(query(), "running kernels")) {
    const auto now = Clock::now();
    if (now - start > std::chrono::milliseconds(1))
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    if (now - looked < std::chrono::milliseconds(10)) continue;
    looked = now;
    if (look) look(std::chrono::duration<double>(now - start).count());
  }
}

// Marks of all streams of a device, by number. Never waits: the host may be far ahead. None may be used while
// work is captured: a graph would take them for its own.
class Events {
 public:
  bool capturing = false;
  void not_in_graph(const char* doing) const {
    if (capturing) fail("CUDA: work captured as a graph {}", doing);
  }

  ~Events() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  std::uint64_t record(cudaStream_t stream) {
    not_in_graph("records an event");
    if (events_.size() >= kept && done(cudaEventQuery(events_.front()), "asking for an event")) {
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
    not_in_graph("makes a stream wait for an event");
    if (event < dropped_) return;  // it has happened
    check(cudaStreamWaitEvent(stream, events_[static_cast<std::size_t>(event - dropped_)], 0),
          "waiting for an event");
  }

  cudaError_t query(std::uint64_t event) const {
    not_in_graph("asks for an event");
    if (event < dropped_) return cudaSuccess;
    return cudaEventQuery(events_[static_cast<std::size_t>(event - dropped_)]);
  }
  bool reached(std::uint64_t event) const { return done(query(event), "asking for an event"); }

 private:
  static constexpr std::size_t kept = 256;
  std::deque<cudaEvent_t> events_;
  std::uint64_t dropped_ = 0;
};

class CudaStream : public Stream {
 public:
  CudaStream(const Device& device, std::shared_ptr<Events> events, bool urgent)
      : device_(device), events_(std::move(events)) {
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
  void synchronize() override {
    events_->not_in_graph("waits for the device");
    wait_for([this] { return cudaStreamQuery(stream_); }, device_.while_waiting);
  }
  void synchronize(std::uint64_t event) override {
    wait_for([this, event] { return events_->query(event); }, device_.while_waiting);
  }
  std::uint64_t record() override { return events_->record(stream_); }
  void wait(std::uint64_t event) override { events_->wait(stream_, event); }
  bool reached(std::uint64_t event) override { return events_->reached(event); }
  void* native() override { return stream_; }
  cudaStream_t handle() const { return stream_; }

 private:
  const Device& device_;
  std::shared_ptr<Events> events_;
  cudaStream_t stream_ = nullptr;
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(DeviceOptions options)
      : Device(DeviceKind::cuda, options),
        arena_([this](std::size_t bytes) { return make_segment(bytes); }, segment_bytes) {
    check(cudaSetDevice(options.ordinal), "selecting the GPU");
    ++sharers();
    events_ = std::make_shared<Events>();
    stream_ = std::make_unique<CudaStream>(*this, events_, false);
    staging_ = std::make_unique<Staging>(stream_->handle(), [this](cudaEvent_t sent) {
      wait_for([sent] { return cudaEventQuery(sent); }, while_waiting);
    });
  }
  ~CudaDevice() override {
    libraries_ = {};
    staging_.reset();
    stream_.reset();
    for (void* segment : segments_) cudaFree(segment);
    --sharers();
  }

  std::string model() const override {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal()), "asking what the GPU is");
    return properties.name;
  }
  std::string identity() const override {  // as nvidia-smi -L has it
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal()), "asking what the GPU is");
    std::string text = "GPU";
    for (int i = 0; i < 16; ++i)
      text += fmt::format("{}{:02x}", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                          static_cast<unsigned char>(properties.uuid.bytes[i]));
    return text;
  }
  DeviceLibraries& libraries() { return libraries_; }
  Stream& stream() override { return *stream_; }
  std::unique_ptr<Stream> make_stream(bool urgent) override {
    return std::make_unique<CudaStream>(*this, events_, urgent);
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    const bool to_host = !on_device(to);
    const bool from_host = !on_device(from);
    if (to_host || from_host) events_->not_in_graph("exchanges data with the host");
    if (from_host && !to_host) return staging_->copy(to, from, bytes);
    if (to_host) stream_->synchronize();  // here, where it may be ended, not within the copy
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_->handle()), "copying");
    if (to_host) stream_->synchronize();
  }
  void* allocate_pinned(std::size_t bytes) override {
    void* address = nullptr;
    check(cudaMallocHost(&address, bytes), "allocating pinned memory");
    return address;
  }
  void release_pinned(void* address) noexcept override { cudaFreeHost(address); }
  void copy_behind(void* pinned, const void* from, std::size_t bytes) override {
    events_->not_in_graph("copies to the host");
    check(cudaMemcpyAsync(pinned, from, bytes, cudaMemcpyDeviceToHost, stream_->handle()), "copying");
  }
  bool has_graphs() const override { return !exact_; }
  std::unique_ptr<Graph> capture(const std::function<void()>& work) override {
    std::shared_ptr<void> memory = graph_memory_.lock();
    if (memory == nullptr)
      memory = std::shared_ptr<void>(&arena_, [](void* arena) { static_cast<Arena*>(arena)->free_held(); });
    graph_memory_ = memory;
    const Capturing capturing(*this);
    return capture_graph(*stream_, stream_->handle(), work, std::move(memory));
  }
  std::optional<std::size_t> available() const override {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    const std::size_t ours = arena_.reserved() - memory().in_use - arena_.held_free();
    return (free > for_others ? free - for_others : 0) / static_cast<std::size_t>(sharers()) + ours;
  }
  void reserve(std::size_t bytes) override {
    if (arena_.reserved() < bytes && !arena_.reserve(bytes - arena_.reserved()))
      log::warn("CUDA device {}: no {} MiB in one piece to reserve; memory is taken piece by piece",
                ordinal(), (bytes - arena_.reserved()) >> 20);
  }
  void zero(void* address, std::size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(address, 0, bytes, stream_->handle()), "zeroing memory");
  }

 protected:
  void* do_allocate(std::size_t bytes) override {
    return exact_ ? make_segment(bytes) : arena_.allocate(bytes);
  }
  void do_release(void* address, std::size_t) noexcept override {
    if (!exact_) return arena_.release(address);
    stream_->drain();
    cudaFree(address);
    segments_.erase(address);
  }

 private:
  static constexpr std::size_t segment_bytes = std::size_t{1} << 30;
  // What libraries, kernels' code, graphs and NCCL's buffers take beside the arena, some of it later.
  static constexpr std::size_t for_others = std::size_t{1536} << 20;

  // Devices of this process on the same GPU: ranks that are threads.
  std::atomic<int>& sharers() const {
    static std::array<std::atomic<int>, 64> counts{};
    return counts[static_cast<std::size_t>(ordinal()) % counts.size()];
  }
  // While one lives, a graph is captured.
  class Capturing {
   public:
    explicit Capturing(CudaDevice& device) : device_(device) { set(true); }
    ~Capturing() { set(false); }
    Capturing(const Capturing&) = delete;
    Capturing& operator=(const Capturing&) = delete;

   private:
    void set(bool on) {
      device_.events_->capturing = on;
      device_.arena_.hold(on);
    }
    CudaDevice& device_;
  };

  void* make_segment(std::size_t bytes) {
    void* address = nullptr;
    const cudaError_t error = cudaMalloc(&address, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not an error of what comes next
      return nullptr;
    }
    check(error, "allocating memory");
    segments_.insert(address);
    return address;
  }
  static bool on_device(const void* address) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, address), "asking where memory is");
    return attributes.type == cudaMemoryTypeDevice;
  }

  Arena arena_;
  std::weak_ptr<void> graph_memory_;  // while there are graphs
  std::set<void*> segments_;
  // Every allocation is one of CUDA's own, whose bounds compute-sanitizer knows: slow, and without graphs.
  bool exact_ = std::getenv("TESSERA_EXACT_ALLOCATIONS") != nullptr;
  std::shared_ptr<Events> events_;
  std::unique_ptr<CudaStream> stream_;
  std::unique_ptr<Staging> staging_;
  DeviceLibraries libraries_;
};

int count_gpus() {
  // Streams beyond the number of hardware queues, 8 unless asked otherwise, may wait for each other: a
  // message that its receiver is late for would hold up another one.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "asking for the driver");
  if (driver == 0)
    fail(
        "CUDA: this machine has no NVIDIA driver; check nvidia-smi, or compute on the CPU (train.device: "
        "cpu)");
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for GPUs");
  return count;
}

const RegisterDevice register_cuda(DeviceKind::cuda,
                                   {[](DeviceOptions options) -> std::unique_ptr<Device> {
                                      options.chunk_bytes =
                                          std::size_t{1}
                                          << 30;  // of logits over 128k tokens: products of 2048 rows
                                      return std::make_unique<CudaDevice>(options);
                                    },
                                    count_gpus});

}  // namespace

void raise(cudaError_t error, const char* doing) {
  int device = -1;
  const bool selected = cudaGetDevice(&device) == cudaSuccess;
  fail("CUDA{}: {}: {}{}", selected ? fmt::format(" device {}", device) : "", doing,
       cudaGetErrorString(error), advice(error));
}

DeviceLibraries& libraries(Device& device) {
  return static_cast<CudaDevice&>(device).libraries();
}

cudaStream_t native_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream).handle();
}

}  // namespace tessera::cuda
