#include "launch/metrics.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/new_file.h"
#include "core/base/progress.h"
#include "core/base/standard_output.h"
#include "launch/events.h"
#include "launch/version.h"

namespace tessera {

namespace fs = std::filesystem;

// The two logs; each is given up by itself at its first fault.
struct Metrics::Files {
  fs::path directory;
  std::optional<io::File> lines;
  std::optional<EventWriter> events;

  // Runs `write`; a fault is warned about and `log` is closed.
  template <class Log>
  static void attempt(std::optional<Log>& log, const char* what, const std::function<void()>& write) {
    try {
      write();
    } catch (const std::exception& e) {
      log.reset();
      log::warn("{}; training goes on without {}", e.what(), what);
    }
  }

  void line(const Json& object) {
    if (lines) attempt(lines, "metrics.jsonl", [&] { lines->write(object.dump() + "\n"); });
  }
  void scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values) {
    if (events) attempt(events, "TensorBoard events", [&] { events->scalars(step, values); });
  }
};

namespace {

// A line on standard output, at once. What cannot be printed does not end a run: main() tells of it at the
// end. Where the reader of a pipe has gone, nobody looks any more: the run is asked to save and stop.
void print_line(const std::string& line) {
  static bool told = false;
  try {
    standard_output::write(line + "\n");
    standard_output::flush();
  } catch (const Error& e) {
    if (std::exchange(told, true)) return;
    log::warn(
        "{}; {}", e.what(),
        e.code() == standard_output::reader_gone ? "asking the run to save and stop" : "training goes on");
    if (e.code() == standard_output::reader_gone) ::kill(::getpid(), SIGUSR1);
  }
}

// The lines of an earlier start that a run going on from `first_step` keeps: whole ones, of earlier steps.
std::string kept_lines(const std::string& text, std::int64_t first_step) {
  std::string kept;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // cut off by a kill
    const std::string line = text.substr(begin, end - begin + 1);
    begin = end + 1;
    const Json object = Json::parse(line, nullptr, false);
    if (!object.is_object()) continue;
    const auto step = object.find("step");
    if (step != object.end() && step->is_number_integer() && step->get<std::int64_t>() >= first_step)
      continue;
    kept += line;
  }
  return kept;
}

void set_aside(const fs::path& path) {
  for (int n = 1;; ++n) {
    const fs::path old = path.parent_path() / fmt::format("metrics.{}.jsonl", n);
    if (!fs::exists(old)) return io::rename_file(path, old);
  }
}

Json header_json(const RunHeader& header, std::int64_t first_step) {
  return Json{{"version", version},
              {"schema", 1},
              {"first_step", first_step},
              {"ranks", header.ranks},
              {"startup_s", header.startup_s},
              {"tokenizer_sha256", header.tokenizer_sha256.empty() ? Json() : Json(header.tokenizer_sha256)},
              {"config", Json::parse(header.config_json)}};
}

// JSON has no NaN: a number that is not finite is written as the text "nan", "inf" or "-inf".
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value));
}

}  // namespace

Metrics::Metrics(const std::string& directory, const RunHeader& header, std::int64_t first_step)
    : files_(std::make_unique<Files>()) {
  if (directory.empty()) return;
  files_->directory = directory;
  Files::attempt(files_->lines, "metrics.jsonl", [&] {
    fs::create_directories(directory);
    const fs::path path = files_->directory / "metrics.jsonl";
    if (fs::exists(path)) {
      if (first_step > 0) {
        io::write_atomically(path, kept_lines(io::read_text(path, std::uint64_t{1} << 32), first_step));
      } else {
        set_aside(path);
      }
    }
    files_->lines = io::File::open_append(path);
    files_->lines->write(header_json(header, first_step).dump() + "\n");
  });
  Files::attempt(files_->events, "TensorBoard events", [&] { files_->events.emplace(files_->directory); });
}

Metrics::~Metrics() = default;

namespace {

// The busiest expert's load as a multiple of the mean, over all layers.
double highest_load(const std::vector<std::vector<double>>& slots) {
  double highest = 0;
  for (const std::vector<double>& layer : slots) {
    double total = 0;
    for (const double count : layer) total += count;
    if (total > 0)
      highest = std::max(
          highest, *std::max_element(layer.begin(), layer.end()) * static_cast<double>(layer.size()) / total);
  }
  return highest;
}

}  // namespace

void Metrics::step(const StepMetrics& m) {
  Json line = Json{{"step", m.step},
                   {"tokens", m.tokens},
                   {"loss", number(m.loss)},
                   {"grad_norm", number(m.grad_norm)},
                   {"lr", m.lr},
                   {"step_s", m.step_s},
                   {"tokens_per_s", number(m.tokens_per_s)},
                   {"tflops", number(m.tflops)},
                   {"mem_bytes", m.mem_bytes},
                   {"data_wait_s", m.data_wait_s},
                   {"skipped", m.skipped},
                   {"eta_s", number(m.eta_s)}};
  std::vector<std::pair<std::string, double>> scalars{
      {"train/loss", m.loss},
      {"train/grad_norm", m.grad_norm},
      {"train/lr", m.lr},
      {"train/tokens", static_cast<double>(m.tokens)},
      {"speed/tokens_per_s", m.tokens_per_s},
      {"speed/tflops", m.tflops},
      {"speed/memory_bytes", static_cast<double>(m.mem_bytes)}};
  if (!m.expert_slots.empty()) {
    line["expert_slots"] = m.expert_slots;
    line["expert_load_max"] = highest_load(m.expert_slots);
    line["balance"] = number(m.balance);
    scalars.emplace_back("experts/load_max", highest_load(m.expert_slots));
    scalars.emplace_back("experts/balance", m.balance);
  }
  files_->line(line);
  files_->scalars(m.step, scalars);
}

void Metrics::validation(const ValidationMetrics& m) {
  files_->line(Json{
      {"step", m.step}, {"valid_loss", number(m.loss)}, {"valid_tokens", m.tokens}, {"valid_s", m.seconds}});
  files_->scalars(m.step, {{"valid/loss", m.loss}});
  print_line(fmt::format("validation after step {}  loss {:.4f}  perplexity {:.2f}  {} tokens  {:.1f} s",
                         m.step, m.loss, std::exp(m.loss), m.tokens, m.seconds));
}

std::string Metrics::progress_line(const StepMetrics& m, std::int64_t steps) {
  std::string line = fmt::format(
      "step {}/{}  loss {:.4f}  grad_norm {:.3f}  lr {:.2e}  {:.0f} tokens/s  {:.3g} TFLOP/s  memory {}  eta "
      "{}",
      m.step, steps, m.loss, m.grad_norm, m.lr, m.tokens_per_s, m.tflops,
      bytes_text(static_cast<double>(m.mem_bytes)), duration_text(m.eta_s));
  if (!m.expert_slots.empty()) line += fmt::format("  expert load {:.2f}", highest_load(m.expert_slots));
  if (m.skipped > 0) line += fmt::format("  skipped {}", m.skipped);
  return line;
}

void Metrics::print_progress(const StepMetrics& metrics, std::int64_t steps) {
  print_line(progress_line(metrics, steps));
}

}  // namespace tessera
