#include "launch/bench/kernels.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/standard_output.h"
#include "core/tensor/kernel.h"

namespace tessera::bench {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Something that runs again and again; of several instances each in turn.
class Timed {
 public:
  Timed(Device& device, const Timing& timing, std::vector<std::function<void()>> instances)
      : device_(device), instances_(std::move(instances)) {
    for (const auto& run : instances_) run();  // chooses algorithms, loads code
    while (calls_ < most_calls) {
      const double seconds = round();
      if (seconds >= timing.least_seconds) break;
      const double factor = std::clamp(1.2 * timing.least_seconds / std::max(seconds, 1e-9), 1.5, 64.0);
      calls_ = static_cast<int>(std::ceil(calls_ * factor));
    }
  }

  void measure() { seconds_.push_back(round() / calls_); }
  double seconds() const { return median(seconds_); }

 private:
  static constexpr int most_calls = 1 << 20;

  double round() {
    device_.stream().synchronize();
    const auto start = Clock::now();
    for (int i = 0; i < calls_; ++i) instances_[static_cast<std::size_t>(i) % instances_.size()]();
    device_.stream().synchronize();
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  Device& device_;
  std::vector<std::function<void()>> instances_;
  int calls_ = 1;
  std::vector<double> seconds_;
};

// Copies between two halves of a buffer.
class Copying {
 public:
  Copying(Device& device, const Timing& timing, std::size_t bytes)
      : bytes_(bytes),
        from_(Tensor::zeros({static_cast<std::int64_t>(bytes)}, DType::u8, device)),
        to_(Tensor::empty(from_.shape(), DType::u8, device)),
        timed_(device, timing, {[this, &device] { device.copy(to_.raw(), from_.raw(), bytes_); }}) {}

  Timed fresh() const { return timed_; }
  double rate(const Timed& timed) const { return 2 * static_cast<double>(bytes_) / timed.seconds(); }

 private:
  std::size_t bytes_;
  Tensor from_, to_;
  Timed timed_;
};

std::string chosen_candidate(Device& device, const std::string& slot) {
  if (device.stood_in.contains(slot) && !device.wished_kernels.contains(slot)) return "stand-in";
  return device.chosen_kernels[slot];
}

Speed time_case(Device& device, const Case& first, const MakeCase& make, const Sizes& sizes,
                const Timing& timing, const Copying& copying) {
  const bool memory = first.flop == 0;
  device.chosen_kernels.erase(first.slot);
  std::vector<std::function<void()>> runs{first.run};
  while (memory && runs.size() < 8 &&
         static_cast<double>(runs.size()) * first.bytes < static_cast<double>(sizes.cold_bytes))
    runs.push_back(make(device).run);
  Timed kernel(device, timing, std::move(runs));
  Timed copy = copying.fresh();
  for (int i = 0; i < timing.rounds; ++i) {
    if (memory) copy.measure();
    kernel.measure();
  }
  return {.slot = first.slot,
          .candidate = chosen_candidate(device, first.slot),
          .shape = first.shape,
          .bytes = first.bytes,
          .flop = first.flop,
          .seconds = kernel.seconds(),
          .copy_rate = memory ? copying.rate(copy) : 0};
}

// Candidates that must be asked for.
std::vector<std::string> on_request(const std::string& slot, DeviceKind device) {
  std::vector<std::string> names;
  for (const KernelSlot* one : KernelSlot::all())
    if (one->name() == slot)
      for (const KernelSlot::Entry& entry : one->entries())
        if (entry.device == device && entry.on_request && entry.candidate != "plain")
          names.push_back(entry.candidate);
  return names;
}

}  // namespace

int time_kernels(Device& device, const Sizes& sizes, const Timing& timing, const std::set<std::string>& only,
                 const std::function<void(const Speed&)>& use) {
  const Copying copying(device, timing, sizes.copy_bytes);
  int failures = 0;
  const auto attempt = [&](const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& e) {
      if (e.code() == standard_output::reader_gone) throw;
      log::error("{}", e.what());
      ++failures;
    }
  };
  const auto time = [&](const MakeCase& make) {
    const Case first = make(device);
    if (!only.empty() && !only.contains(first.slot)) return;
    attempt([&] { use(time_case(device, first, make, sizes, timing, copying)); });
    for (const std::string& candidate : on_request(first.slot, device.kind())) {
      device.wished_kernels[first.slot] = candidate;
      attempt([&] { use(time_case(device, first, make, sizes, timing, copying)); });
      device.wished_kernels.erase(first.slot);
    }
  };
  for (const auto& cases : {dense_cases(sizes), expert_cases(sizes), arithmetic_cases(sizes)})
    for (const MakeCase& make : cases) attempt([&] { time(make); });
  return failures;
}

}  // namespace tessera::bench
