#include "kernels/cuda/native/gemm_tune.h"

#include <algorithm>
#include <limits>

#include "core/base/philox.h"
#include "kernels/cuda/native/check.h"

namespace tessera::cuda {
namespace {

constexpr double never = std::numeric_limits<double>::infinity();

// Values in [−1, 1). Zeros would draw less power, and so run at higher clocks than training does.
template <class T>
std::vector<T> random_values(std::size_t n) {
  const Key key(0, "gemm tuning");
  std::vector<T> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = T(2 * uniform(key, i) - 1);
  return values;
}

}  // namespace

Tuner::Tuner(const lt::Problem& problem, const GemmKey& key, lt::Scratch workspace, cudaStream_t stream)
    : problem_(problem), workspace_(workspace), stream_(stream) {
  operands_.a = take_random(key.m * key.k, key.a);
  operands_.b = take_random(key.k * key.n, key.b);
  operands_.c = take_random(key.m * key.n, key.c);
  if (key.bias) operands_.bias = take_random(key.n, key.c);
  int device = 0;
  int cache_bytes = 0;
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, device), "asking for the cache's size");
  flush_.bytes = 2 * static_cast<std::size_t>(cache_bytes);
  flush_.address = take(flush_.bytes);
  check(cudaEventCreate(&begin_), "making an event");
  check(cudaEventCreate(&end_), "making an event");
}

Tuner::~Tuner() {
  for (void* address : taken_) cudaFreeAsync(address, stream_);
  cudaStreamSynchronize(stream_);
  int device = 0;
  cudaMemPool_t pool = nullptr;
  if (cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetDefaultMemPool(&pool, device) == cudaSuccess)
    cudaMemPoolTrimTo(pool, 0);
  if (begin_ != nullptr) cudaEventDestroy(begin_);
  if (end_ != nullptr) cudaEventDestroy(end_);
}

void* Tuner::take(std::size_t bytes) {
  void* address = nullptr;
  if (!ready_ || bytes == 0) return nullptr;
  const cudaError_t error = cudaMallocAsync(&address, bytes, stream_);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not an error of what comes next
    ready_ = false;
    return nullptr;
  }
  check(error, "allocating memory to time products");
  taken_.push_back(address);
  return address;
}

// A first part comes from the host, and is doubled until all is filled.
void* Tuner::take_random(std::int64_t elements, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(elements) * bytes_per_element(dtype);
  auto* address = static_cast<std::byte*>(take(bytes));
  if (address == nullptr) return nullptr;
  const std::size_t first = std::min(static_cast<std::size_t>(elements), std::size_t{1} << 20);
  std::size_t filled = first * bytes_per_element(dtype);
  const auto upload = [&](const void* values) {
    check(cudaMemcpyAsync(address, values, filled, cudaMemcpyHostToDevice, stream_), "copying");
    check(cudaStreamSynchronize(stream_), "copying");
  };
  if (dtype == DType::f32)
    upload(random_values<float>(first).data());
  else
    upload(random_values<bf16>(first).data());
  while (filled < bytes) {
    const std::size_t part = std::min(filled, bytes - filled);
    check(cudaMemcpyAsync(address + filled, address, part, cudaMemcpyDeviceToDevice, stream_), "copying");
    filled += part;
  }
  return address;
}

double Tuner::run_once(const lt::Algorithm& algorithm) {
  check(cudaMemsetAsync(flush_.address, 0, flush_.bytes, stream_), "emptying the cache");
  check(cudaEventRecord(begin_, stream_), "recording an event");
  if (problem_.run(algorithm, operands_, workspace_, stream_) != CUBLAS_STATUS_SUCCESS) return never;
  check(cudaEventRecord(end_, stream_), "recording an event");
  check(cudaEventSynchronize(end_), "timing a product");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timing a product");
  return 1e-3 * static_cast<double>(milliseconds);
}

double Tuner::median_of_runs(const lt::Algorithm& algorithm, int runs) {
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(run_once(algorithm));
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<std::size_t>(runs / 2)];
}

std::vector<double> Tuner::time(std::span<const lt::Algorithm> algorithms) {
  constexpr int rounds = 3;
  constexpr int runs = 5;
  constexpr double far_behind = 1.3;
  std::vector<double> first;
  for (const lt::Algorithm& algorithm : algorithms) {
    run_once(algorithm);  // loads the kernel
    first.push_back(run_once(algorithm));
  }
  if (first.empty()) return first;
  const double limit = far_behind * *std::min_element(first.begin(), first.end());
  std::vector<double> seconds = first;
  // In turns, so that clocks that drift favour none; the first round replaces the single run.
  for (int round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < algorithms.size(); ++i) {
      if (first[i] > limit || first[i] == never) continue;
      const double median = median_of_runs(algorithms[i], runs);
      seconds[i] = round == 0 ? median : std::min(seconds[i], median);
    }
  return seconds;
}

}  // namespace tessera::cuda
