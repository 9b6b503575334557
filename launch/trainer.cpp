#include "launch/trainer.h"

#include <chrono>
#include <cmath>
#include <deque>
#include <optional>

#include "checkpoint/lock.h"
#include "checkpoint/store.h"
#include "core/base/activity.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/watch.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "launch/estimate.h"
#include "launch/metrics.h"
#include "launch/process.h"
#include "launch/run_memory.h"
#include "launch/run_setup.h"
#include "launch/run_state.h"
#include "launch/schedule.h"
#include "launch/signals.h"
#include "launch/start_plan.h"
#include "parallel/engine.h"
#include "parallel/replica_fault.h"
#include "parallel/replicas.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

struct Trainer::State {
  State(Config given, ProcessGroup& group, const TrainOptions& chosen)
      : config(std::move(given)), ranks(group), options(chosen) {}

  Config config;
  ProcessGroup& ranks;
  TrainOptions options;
  std::optional<DirectoryLock> lock;
  std::optional<LastWill> unlock;  // of any rank that ends the job by force
  RunSetup setup;
  std::unique_ptr<Engine> engine;
  RunPosition position;
  std::unique_ptr<Metrics> metrics;
  std::deque<StepMetrics> in_flight;  // steps whose numbers are still to come
  Clock::time_point last_finish;
  double smoothed = 0;  // seconds of a step
  double longest = 0;
  std::int64_t skipped_in_a_row = 0;

  void take_lock();
  void be_patient() const;
  void step();
  StepMetrics finish_step();
  bool note(const StepMetrics& now);
  void validate();
  void check_replicas() const;
  bool save();
  bool asked_to_stop() const;
  ExitCode stopped(const std::string& what, bool safe) const;
  ExitCode train();
};

// One rank holds the lock, and whoever ends the job takes it away.
void Trainer::State::take_lock() {
  const DoingScope scope(Doing::uses_storage, "taking of the lock of", config.checkpoint.dir);
  if (ranks.rank() == 0) lock.emplace(config.checkpoint.dir);
  const std::string holder = ranks.all_gather_text(lock ? lock->holder() : "").front();
  unlock.emplace([dir = config.checkpoint.dir, holder] { DirectoryLock::release(dir, holder); });
}

// Until a step has been seen no one knows how long one takes.
void Trainer::State::be_patient() const {
  const double known = longest == 0 ? first_patience : std::max(60.0, 10 * longest);
  const double work = config.train.watchdog ? *config.train.watchdog : known;
  const double storage =
      storage_factor * (config.train.watchdog ? *config.train.watchdog : std::max(60.0, longest));
  const double longest_call = config.train.storage_watchdog ? *config.train.storage_watchdog : storage;
  ranks.set_patience(std::max(work, longest_call));  // with others, where that is all it has
  set_patience(work, longest_call);
}

// One step of the whole run: this rank's groups, the sum over all, clip, update. Its numbers come later.
void Trainer::State::step() {
  const auto start = Clock::now();
  StepMetrics now;
  now.step = position.step;
  set_position(fmt::format("step {}", position.step));
  const StepData data = read_step(*engine, *setup.data, setup.batch, position.step);
  now.data_wait_s = seconds_since(start);
  const std::int64_t counted = count_targets(*engine, data);
  const auto load = [&](std::size_t i) { return load_batch(*engine, data, i, config.data.document_mask); };
  engine->run_step(load, counted);
  now.lr = learning_rate(config.schedule, config.optimizer.lr, config.train.steps, position.step);
  engine->update(now.lr, config.optimizer.clip);
  ++position.step;
  position.tokens += counted;
  now.tokens = position.tokens;
  in_flight.push_back(now);
}

// Takes the numbers of the oldest step that is under way.
StepMetrics Trainer::State::finish_step() {
  EngineReport report = engine->next_report();
  StepMetrics now = std::move(in_flight.front());
  in_flight.pop_front();
  now.loss = report.loss;
  now.grad_norm = report.norm;
  now.expert_slots = std::move(report.experts.slots);
  now.balance = report.experts.balance;
  now.overflow = std::move(report.experts.overflow);
  ++(report.updated != 0 ? position.optimizer_steps : position.skipped);
  now.skipped = position.skipped;
  now.step_s = seconds_since(last_finish);
  last_finish = Clock::now();
  now.mem_bytes =
      static_cast<std::uint64_t>(ranks.maximum(static_cast<std::int64_t>(engine->device().memory().peak)));
  const double tokens = static_cast<double>(config.train.global_batch * config.data.seq_len);
  now.tokens_per_s = tokens / now.step_s;
  now.tflops = now.tokens_per_s * flops_per_token(engine->spec(), config.data.seq_len) / 1e12;
  smoothed = smoothed == 0 ? now.step_s : 0.9 * smoothed + 0.1 * now.step_s;
  now.eta_s = smoothed * static_cast<double>(config.train.steps - now.step - 1);
  longest = std::max(longest, now.step_s);
  return now;
}

// Of a finished step: into the log. False where the run must end.
bool Trainer::State::note(const StepMetrics& now) {
  if (metrics) {
    const DoingScope scope(Doing::uses_storage, "writing of the log");
    metrics->step(now);
    const bool last = now.step + 1 == config.train.steps;
    if (now.step % config.log.every == 0 || last) Metrics::print_progress(now, config.train.steps);
  }
  if (!now.overflow.empty()) {  // what it computed is wrong: there is nothing to skip to
    if (ranks.rank() == 0) log::error("step {}: {}", now.step, now.overflow);
    return false;
  }
  if (std::isfinite(now.loss) && std::isfinite(now.grad_norm)) {
    skipped_in_a_row = 0;
    return true;
  }
  if (config.optimizer.on_nonfinite == OnNonfinite::skip) {
    log::info("step {}: loss {} or norm {} is not finite: skipped", now.step, now.loss, now.grad_norm);
    if (++skipped_in_a_row < config.optimizer.max_skipped) return true;
    if (ranks.rank() == 0)
      log::error(
          "step {}: loss or norm were not finite {} times in a row (optimizer.max_skipped): stopped. Resume "
          "from an earlier checkpoint with a lower learning rate, and look at the data of these steps",
          now.step, skipped_in_a_row);
    return false;
  }
  if (ranks.rank() == 0)
    log::error(
        "step {}: loss {} and gradient norm {} are not finite; stopped before the update. Resume from an "
        "earlier checkpoint with a lower learning rate, or set optimizer.on_nonfinite: skip",
        now.step, now.loss, now.grad_norm);
  return false;
}

void Trainer::State::validate() {
  const auto start = Clock::now();
  const Evaluation all = evaluate(*engine, setup.valid, setup.batch, config.data.document_mask,
                                  [this] { return asked_to_stop(); });
  if (all.is_left) {
    log::info("asked to stop: the validation of step {} is left", position.step - 1);
    return;
  }
  if (!metrics || all.tokens == 0) return;
  const DoingScope scope(Doing::uses_storage, "writing of the log");
  metrics->validation({position.step - 1, all.tokens, all.loss, seconds_since(start)});
}

// A bit that flipped on one rank is in its sums from then on: the run goes back to before.
void Trainer::State::check_replicas() const {
  set_position("comparing replicas");
  const std::string fault = compare_replicas(*engine);
  if (fault.empty()) return;
  throw ReplicasDiffer(
      fmt::format("after step {}: {}; nothing is saved from it. Run the same command again to go back to the "
                  "newest checkpoint; if it comes again, look at that rank's memory and network",
                  position.step - 1, fault));
}

// Whether the checkpoint is there. A full disk does not end a run: older checkpoints stand.
bool Trainer::State::save() {
  const auto start = Clock::now();
  set_position(fmt::format("save of step {}", position.step));
  const DoingScope scope(Doing::uses_storage, "the checkpoint");
  if (lock) lock->require_held();
  try {
    save_run(config, position, *engine, setup.description, *setup.data, ranks);
    log::info("saved {} in {:.2f} s", checkpoint_path(config.checkpoint.dir, position.step).string(),
              seconds_since(start));
    return true;
  } catch (const PeerFailed&) {
    throw;
  } catch (const Error& e) {
    if (e.code() == ExitCode::watchdog) throw;
    if (ranks.rank() == 0)
      log::warn("no checkpoint of step {}: {}; training goes on", position.step, e.what());
    return false;
  }
}

// By any rank's request; all ranks hear the same.
bool Trainer::State::asked_to_stop() const {
  return ranks.maximum(stop_request()) != 0;
}

ExitCode Trainer::State::stopped(const std::string& what, bool safe) const {
  log::info("asked to stop: {}; run the same command again to resume", what);
  return safe ? ExitCode::requeue : ExitCode::failure;
}

ExitCode Trainer::State::train() {
  const std::int64_t steps = config.train.steps;
  if (position.step >= steps) log::info("step {} of {} is done: nothing to train", position.step, steps);
  bool saved = true;
  if (position.step < steps && asked_to_stop())
    return stopped("nothing is new since the start, nothing to save", true);
  last_finish = Clock::now();
  while (position.step < steps) {
    step();
    const bool last = position.step == steps;
    bool stop = asked_to_stop();
    const bool due = position.step % config.checkpoint.every == 0 || last || stop;
    const bool evaluates = config.log.eval_every > 0 && (position.step % config.log.eval_every == 0 || last);
    // A GPU works on a step while the host prepares the next one; what is saved must be whole.
    const std::size_t ahead = engine->runs_ahead() && !due && !evaluates ? 1 : 0;
    while (in_flight.size() > ahead)
      if (!note(finish_step())) return ExitCode::numbers_suspect;
    be_patient();
    if (options.after_step) options.after_step(*engine, position.step);
    if (due || (config.train.compare_every && position.step % *config.train.compare_every == 0))
      check_replicas();
    if (due) saved = save();
    if (evaluates && !stop) validate();
    if (!stop && !last && (due || evaluates) && asked_to_stop()) {  // meanwhile: now, not a step later
      stop = true;
      if (!due || !saved) saved = save();
    }
    if (stop && !last)
      return stopped(fmt::format("{} at step {}", saved ? "saved" : "NOT saved", position.step), saved);
    if (due || evaluates) last_finish = Clock::now();
  }
  return saved ? ExitCode::ok : ExitCode::failure;
}

Trainer::Trainer(const Config& config, ProcessGroup& ranks, const TrainOptions& options)
    : state_(std::make_unique<State>(config, ranks, options)) {
  State& s = *state_;
  s.be_patient();
  s.take_lock();
  if (ranks.rank() == 0) require_log_folder(config);
  s.setup = set_up_run(s.config, ranks);
  const StartPlan start = plan_start(s.config, s.setup, options.fresh, ranks);
  s.position = start.position;
  s.setup.device->wished_kernels = start.kernels;
  const ParallelLayout& layout = s.setup.layout;
  const ReleaseConfig& release = s.setup.description.release;
  require_run_memory(ranks, *s.setup.device,
                     {release.spec, s.setup.model, layout, s.setup.batch, start.groups},
                     assumed_sizes(s.config, release));
  take_memory(*s.setup.device, release.spec, s.setup.model, layout, s.setup.batch, start.groups,
              s.config.train.cuda_graphs);
  s.engine =
      std::make_unique<Engine>(s.setup.description.release.spec, *s.setup.device, *s.setup.ranks, layout,
                               s.setup.model, s.setup.batch, s.position.reduce_groups, s.setup.optimizer);
  if (s.config.train.cuda_graphs) s.engine->use_graphs();
  if (start.saved)
    load_run(*start.saved, *s.engine);
  else
    initialize_weights(s.config, s.setup, *s.engine);
  if (ranks.rank() != 0) return;
  for (const std::string& line : start.warnings) log::warn("{}", line);
  print_start_table(s.config, s.setup, *s.engine, ranks, options);
  if (start.saved) log::info("resumed from step {} of '{}'", s.position.step, config.checkpoint.dir);
  s.metrics = std::make_unique<Metrics>(
      config.log.dir,
      RunHeader{config_json(s.config), s.setup.data->file(0).info().tokenizer_sha256, ranks.size(),
                seconds_since_process_start()},
      s.position.step);
}

Trainer::~Trainer() = default;

ExitCode Trainer::run() {
  return state_->train();
}

}  // namespace tessera
