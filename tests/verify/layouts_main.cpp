// Every valid layout of 8 thread ranks for six small models, and smaller sets of 16 and 6 ranks and in bf16,
// against one rank; with an argument, those sets whose names contain it. Prints a line per set, and every
// fault; exits with 1 if there was one.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>

#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

std::string wanted;  // in a set's name
int faults = 0;
std::size_t total = 0;

void check_set(const std::string& name, Bench bench, const std::vector<ParallelLayout>& layouts) {
  if (name.find(wanted) == std::string::npos) return;
  const auto start = std::chrono::steady_clock::now();
  double worst = 0;
  double left_out = 0;
  int bits = 0;
  std::mutex mutex;
  std::atomic<std::size_t> next = 0;
  const auto note = [&](const ParallelLayout& layout, const Comparison& result) {
    const std::lock_guard lock(mutex);
    for (const GroupRow& row : result.rows) worst = std::max(worst, row.worst);
    left_out = std::max(left_out, static_cast<double>(result.left_out) /
                                      static_cast<double>(std::max<std::int64_t>(1, result.elements)));
    bits += result.bits ? 1 : 0;
    if (!result.fault) return;
    ++faults;
    std::printf("FAULT %s, %s: %s\n", name.c_str(), text(layout).c_str(), verdict(result).c_str());
  };
  const auto work = [&] {
    for (std::size_t i = next++; i < layouts.size(); i = next++) note(layouts[i], bench.check(layouts[i]));
  };
  bench.run_alone();
  // Ranks wait for each other much of the time: several layouts at once use the cores better.
  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  total += layouts.size();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf(
      "%-28s %5zu layouts, %4d to the bit, gradients within %.1e, %.2f %% of weights left out, %.0f s\n",
      name.c_str(), layouts.size(), bits, worst, 100 * left_out, seconds);
  std::fflush(stdout);
}

void check_sets() {
  for (const char* family : {"llama", "qwen3", "qwen3_moe"})
    for (const bool tied : {true, false}) {
      Bench bench(subject_of(family, tied));
      check_set(std::string(family) + (tied ? ", tied" : ", untied") + ", 8 ranks", bench, bench.layouts(8));
    }
  for (const char* family : {"qwen3", "qwen3_moe"}) {
    Bench sixteen(subject_of(family, true, 16, 4));
    check_set(std::string(family) + ", 16 ranks", sixteen, covering(sixteen.layouts(16)));
    Bench six(subject_of(family, false, 6, 3));
    check_set(std::string(family) + ", 6 ranks", six, covering(six.layouts(6)));
    Subject in_bf16 = subject_of(family, false);
    in_bf16.model.compute = DType::bf16;
    Bench bf16(in_bf16);
    check_set(std::string(family) + ", bf16, 8 ranks", bf16, covering(bf16.layouts(8)));
  }
}

}  // namespace
}  // namespace tessera::verify

int main(int count, char** arguments) {
  if (count > 1) tessera::verify::wanted = arguments[1];
  tessera::verify::check_sets();
  std::printf("%zu layouts, %d at fault\n", tessera::verify::total, tessera::verify::faults);
  return tessera::verify::faults == 0 ? 0 : 1;
}
