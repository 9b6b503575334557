#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/standard_output.h"
#include "core/tensor/kernel.h"
#include "launch/bench/kernels.h"
#include "launch/command_line.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/output.h"

namespace tessera {
namespace {

struct Arguments {
  DeviceKind device = DeviceKind::cpu;
  std::string sizes;  // "": full on a GPU
  std::string json;   // a file, or - for standard output; "": none
  std::vector<std::string> only;
  bool force = false;
  double milliseconds = 20;
  int rounds = 5;
  int threads = 0;
};

// Below this a kernel's time is that of its launch, and its share of a copy's rate says nothing.
constexpr double launch_bound_bytes = 4e6;

Json json_of(const bench::Speed& speed) {
  Json line{{"slot", speed.slot},
            {"candidate", speed.candidate},
            {"shape", speed.shape},
            {"us", speed.seconds * 1e6}};
  if (speed.flop > 0) {
    line.update({{"gflop", speed.flop / 1e9}, {"tflop_per_s", speed.rate() / 1e12}});
  } else {
    line.update({{"bytes", speed.bytes},
                 {"gb_per_s", speed.rate() / 1e9},
                 {"copy_gb_per_s", speed.copy_rate / 1e9},
                 {"share_of_copy", speed.share_of_copy()}});
  }
  return line;
}

// The table as it grows, with a heading for each of its two kinds of rows.
class Table {
 public:
  void add(const bench::Speed& speed) {
    const bool arithmetic = speed.flop > 0;
    if (arithmetic != arithmetic_) {
      arithmetic_ = arithmetic;
      standard_output::print("{}{:<22} {:<15} {:<52} {:>9} {:>10} {}\n", rows_ > 0 ? "\n" : "", "kernel",
                             "candidate", "shape", arithmetic ? "GFLOP" : "MB", "us",
                             arithmetic ? "  TFLOP/s" : fmt::format("{:>9} {:>8}", "GB/s", "of copy"));
    }
    ++rows_;
    standard_output::print("{:<22} {:<15} {:<52} {:>9.4g} {:>10.2f} ", speed.slot, speed.candidate,
                           speed.shape, arithmetic ? speed.flop / 1e9 : speed.bytes / 1e6,
                           speed.seconds * 1e6);
    if (arithmetic)
      standard_output::print("{:>9.4g}\n", speed.rate() / 1e12);
    else
      standard_output::print(
          "{:>9.4g} {:>8}\n", speed.rate() / 1e9,
          speed.bytes < launch_bound_bytes ? "launch" : fmt::format("{:.0f} %", 100 * speed.share_of_copy()));
    standard_output::flush();
  }

 private:
  std::optional<bool> arithmetic_;
  int rows_ = 0;
};

std::set<std::string> known_slots(const std::vector<std::string>& names) {
  std::set<std::string> known;
  for (const KernelSlot* slot : KernelSlot::all()) known.insert(slot->name());
  for (const std::string& name : names)
    if (!known.contains(name)) fail_usage("--only: there is no kernel slot '{}'", name);
  return {names.begin(), names.end()};
}

int bench_kernels(const Arguments& arguments) {
  const std::set<std::string> only = known_slots(arguments.only);
  const bool lines_only = arguments.json == "-";
  std::optional<io::File> file;
  if (!arguments.json.empty() && !lines_only) {
    const auto path = Outputs({}, arguments.force).settle("--json", arguments.json, timings_output());
    if (std::filesystem::is_regular_file(path)) std::filesystem::resize_file(path, 0);
    file = io::File::open_append(path);  // rows are there as they come, whatever ends this
  }
  const auto device = make_inference_device(arguments.threads, arguments.device);
  const bool full =
      arguments.sizes.empty() ? arguments.device == DeviceKind::cuda : arguments.sizes == "full";
  if (!lines_only) standard_output::print("{}, {} sizes\n", device->model(), full ? "full" : "small");
  Table table;
  const int failures = bench::time_kernels(*device, full ? bench::full_sizes() : bench::small_sizes(),
                                           {arguments.milliseconds / 1e3, arguments.rounds}, only,
                                           [&](const bench::Speed& speed) {
                                             const std::string line = json_of(speed).dump() + "\n";
                                             if (file) file->write(line);
                                             if (lines_only)
                                               standard_output::write(line);
                                             else
                                               table.add(speed);
                                           });
  return failures == 0 ? 0 : 1;
}

}  // namespace

void add_bench_kernels_verb(CLI::App& bench, Action& chosen) {
  CLI::App* verb = bench.add_subcommand("kernels", "Every kernel beside a copy, products and attention");
  auto arguments = std::make_shared<Arguments>();
  add_device_option(*verb, arguments->device);
  verb->add_option(
          "--sizes", arguments->sizes,
          "full: of a model of 1.2 billion parameters; small: a few kilobytes; by default full on a GPU")
      ->check(one_of({"full", "small"}));
  verb->add_option("--json", arguments->json,
                   "A file for a JSON line per row; - writes them on standard output, in place of the table");
  Outputs::add_option(*verb, arguments->force);
  verb->add_option("--only", arguments->only, "Kernel slots to time: swiglu_forward,matmul; all if not given")
      ->delimiter(',');
  verb->add_option("--milliseconds", arguments->milliseconds, "Of one measurement at least")
      ->capture_default_str()
      ->check(real_number(0.001, 1e5));
  verb->add_option("--rounds", arguments->rounds, "Measurements of each, of which the median counts")
      ->capture_default_str()
      ->check(whole_number(1, 1000));
  verb->add_option("--threads", arguments->threads, "Threads; all cores if not given")
      ->check(whole_number(1, 1024));
  verb->footer(
      "Example:\n  tessera bench kernels --device cuda --json kernels.jsonl\n\n"
      "MB are those that a kernel must move: each input read once, each output written once. \"of copy\" is "
      "its rate as a\n"
      "share of that of copies within the device, which run by turns with it.");
  verb->callback([arguments, &chosen] { chosen = [arguments] { return bench_kernels(*arguments); }; });
}

}  // namespace tessera
