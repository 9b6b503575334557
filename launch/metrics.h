// What a run reports: a progress line on standard output, JSON lines, TensorBoard events.
//
// One Metrics object, on rank 0, used by one thread. Log files never kill a run: their first fault is warned
// about once and that file is given up.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

struct StepMetrics {
  std::int64_t step = 0;    // just finished, from 0
  std::int64_t tokens = 0;  // target tokens seen since the run's first step, this one included
  double loss = 0;          // mean over the step's target tokens
  double grad_norm = 0;     // before clipping
  double lr = 0;
  double step_s = 0;  // wall time of this step
  double tokens_per_s = 0;
  double tflops = 0;            // of the model, all ranks together
  std::uint64_t mem_bytes = 0;  // peak of the largest rank
  double data_wait_s = 0;       // of step_s, waiting for tokens
  std::int64_t skipped = 0;     // steps skipped for non-finite numbers, so far
  double eta_s = 0;
  // Of models with experts: slots of the step sent to each, by layer with experts; and the balance term.
  std::vector<std::vector<double>> expert_slots;
  double balance = 0;
  std::string overflow;  // why the run must end: rows found no room on their way to experts. "" if they did
};

struct ValidationMetrics {
  std::int64_t step = 0;    // steps done when it was measured, less one: the last finished step
  std::int64_t tokens = 0;  // target tokens evaluated
  double loss = 0;
  double seconds = 0;
};

struct RunHeader {  // the first JSON line
  std::string config_json;
  std::string tokenizer_sha256;  // "" where there is none
  std::int64_t ranks = 1;
  double startup_s = 0;  // from the process's start to its first step
};

class Metrics {
 public:
  // Opens `directory`/metrics.jsonl and an events file beside it, creating the folder. `first_step` is the
  // step the run goes on from: lines of that step and later ones, left by a run that was killed, are dropped;
  // a run from step 0 begins a new file and keeps the old one under a numbered name. An empty `directory`
  // writes no files.
  Metrics(const std::string& directory, const RunHeader& header, std::int64_t first_step);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void step(const StepMetrics& metrics);              // into the files
  void validation(const ValidationMetrics& metrics);  // into the files and on standard output

  // "step 120/300  loss 5.1234  grad_norm 0.91  lr 8.1e-04  3210 tokens/s  0.21 TFLOP/s  memory 410 MiB  eta
  // 2:03"
  static std::string progress_line(const StepMetrics& metrics, std::int64_t steps);
  // Prints it on standard output and flushes.
  static void print_progress(const StepMetrics& metrics, std::int64_t steps);

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

}  // namespace tessera
