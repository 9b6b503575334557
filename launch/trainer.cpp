#include "launch/trainer.h"

#include <chrono>
#include <cmath>
#include <optional>

#include "checkpoint/lock.h"
#include "checkpoint/retention.h"
#include "core/autograd/tape.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "launch/metrics.h"
#include "launch/process.h"
#include "launch/run_setup.h"
#include "launch/run_state.h"
#include "launch/schedule.h"
#include "launch/signals.h"
#include "parallel/grad_norm.h"
#include "parallel/reduce_groups.h"
#include "parallel/tree_sum.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Every parameter's gradient as a slice of one flat buffer, at cache-line boundaries.
Tensor bind_gradients(std::span<Parameter* const> parameters, Device& device) {
  const auto padded = [](std::int64_t n) { return (n + 15) / 16 * 16; };
  std::int64_t total = 0;
  for (const Parameter* p : parameters) total += padded(p->shape().numel());
  Tensor flat = Tensor::zeros({total}, DType::f32, device);
  std::int64_t at = 0;
  for (Parameter* p : parameters) {
    p->bind_gradient(flat.narrow(0, at, p->shape().numel()).view(p->shape()));
    at += padded(p->shape().numel());
  }
  return flat;
}

}  // namespace

struct Trainer::State {
  State(Config given, ProcessGroup& group, const TrainOptions& chosen)
      : config(std::move(given)), ranks(group), options(chosen) {}

  Config config;
  ProcessGroup& ranks;
  TrainOptions options;
  std::unique_ptr<Device> device;  // outlives every tensor below
  std::optional<DirectoryLock> lock;
  std::unique_ptr<Dataset> data;
  std::vector<std::unique_ptr<TokenFile>> valid;
  ModelDescription description;
  std::unique_ptr<Model> model;
  std::unique_ptr<AdamW> optimizer;
  Tensor gradients;  // flat
  ReduceGroups groups;
  RunPosition position;
  std::unique_ptr<Metrics> metrics;
  double data_wait = 0;

  void choose_groups();
  std::vector<Sample> load_microbatch(std::int64_t index) const;
  double run_group(const std::vector<std::vector<Sample>>& microbatches, std::int64_t group,
                   const Tensor& inverse_count);
  StepMetrics step();
  bool apply_update(const StepMetrics& now);
  void validate();
  bool save();
  ExitCode train();
};

// The run's own groups if the ranks divide them; else the run goes on, and says that its bits differ.
void Trainer::State::choose_groups() {
  const std::int64_t microbatches = config.train.global_batch / config.train.micro_batch;
  const std::int64_t of_run = position.reduce_groups;
  if (!config.parallel.reduce_groups)
    position.reduce_groups = groups_for_ranks(microbatches, of_run, ranks.size());
  groups = plan_reduce_groups(config.train.global_batch, config.train.micro_batch, position.reduce_groups,
                              ranks.size(), ranks.rank());
  if (ranks.rank() != 0) return;
  if (groups.groups != of_run)
    log::warn(
        "{} ranks do not divide the run's {} reduce groups: it goes on with {}, and its bits will differ "
        "from here",
        ranks.size(), of_run, groups.groups);
  else if (!blocks_are_subtrees(groups.groups, ranks.size()))
    log::warn(
        "{} ranks do not hold subtrees of {} reduce groups: bits will differ from other numbers of ranks",
        ranks.size(), groups.groups);
}

std::vector<Sample> Trainer::State::load_microbatch(std::int64_t index) const {
  std::vector<Sample> samples;
  const std::int64_t first = position.step * config.train.global_batch + index * config.train.micro_batch;
  for (std::int64_t i = 0; i < config.train.micro_batch; ++i)
    samples.push_back(data->sample(static_cast<std::uint64_t>(first + i)));
  return samples;
}

// Gradients of one reduce group, from zero, in order of its microbatches; its share of the mean loss.
double Trainer::State::run_group(const std::vector<std::vector<Sample>>& microbatches, std::int64_t group,
                                 const Tensor& inverse_count) {
  for (Parameter* p : optimizer->parameters()) p->clear_gradient();
  const double one = 1;
  const Tensor seed = Tensor::from_host(&one, {1}, DType::f64, *device);
  double total = 0;
  const std::int64_t count = groups.microbatches_per_group();
  for (std::int64_t i = group * count; i < (group + 1) * count; ++i) {
    const Batch batch =
        make_batch(microbatches[static_cast<std::size_t>(i)], config.data.document_mask, *device);
    const Tensor loss = model->loss(batch, inverse_count);
    double value = 0;
    loss.to_host(&value);
    total += value;
    backward(std::span(&loss, 1), std::span(&seed, 1));
  }
  for (const Parameter* p : optimizer->parameters())
    if (!p->gradient_written()) device->zero(p->gradient().raw(), p->gradient().bytes());
  return total;
}

// One step of the whole run: this rank's groups, the sum over all, clip, update.
StepMetrics Trainer::State::step() {
  const auto start = Clock::now();
  StepMetrics now;
  now.step = position.step;
  std::vector<std::vector<Sample>> microbatches;
  std::int64_t counted = 0;
  for (std::int64_t g = 0; g < groups.local_groups; ++g)
    for (std::int64_t i = 0; i < groups.microbatches_per_group(); ++i) {
      microbatches.push_back(load_microbatch(groups.microbatch(g, i)));
      for (const Sample& sample : microbatches.back()) counted += sample.counted;
    }
  now.data_wait_s = seconds_since(start);
  counted = ranks.sum(counted);
  const float inverse = counted == 0 ? 0.0F : static_cast<float>(1.0 / static_cast<double>(counted));
  const Tensor inverse_count = Tensor::from_host(&inverse, {1}, DType::f32, *device);

  TreeAccumulator sum(groups.local_groups);
  const Tensor losses = Tensor::empty({groups.local_groups}, DType::f64, *device);
  for (std::int64_t g = 0; g < groups.local_groups; ++g) {
    losses.data<double>()[g] = run_group(microbatches, g, inverse_count);
    sum.push(gradients);
  }
  ranks.all_reduce(sum.finish());
  const Tensor all_losses = Tensor::empty({groups.groups}, DType::f64, *device);
  ranks.all_gather(all_losses, losses);
  now.loss =
      tree_sum(std::span<const double>(all_losses.data<double>(), static_cast<std::size_t>(groups.groups)));

  if (std::isnan(now.loss)) now.loss = std::abs(now.loss);  // its sign means nothing, and would be printed
  now.lr = learning_rate(config.schedule, config.optimizer.lr, config.train.steps, position.step);
  now.grad_norm = gradient_norm(optimizer->parameters());
  const bool updated = apply_update(now);
  ++position.step;
  position.tokens += counted;
  if (!updated) ++position.skipped;
  now.tokens = position.tokens;
  now.skipped = position.skipped;
  now.step_s = seconds_since(start);
  now.mem_bytes = static_cast<std::uint64_t>(ranks.maximum(static_cast<std::int64_t>(device->memory().peak)));
  const double tokens = static_cast<double>(config.train.global_batch * config.data.seq_len);
  now.tokens_per_s = tokens / now.step_s;
  now.tflops = now.tokens_per_s * flops_per_token(model->spec(), config.data.seq_len) / 1e12;
  return now;
}

// False if the numbers are not finite, and nothing was changed.
bool Trainer::State::apply_update(const StepMetrics& now) {
  if (!std::isfinite(now.loss) || !std::isfinite(now.grad_norm)) return false;
  const double clip = config.optimizer.clip;
  // As torch.nn.utils.clip_grad_norm_: the small number keeps a zero norm harmless.
  const double factor = clip > 0 ? std::min(1.0, clip / (now.grad_norm + 1e-6)) : 1.0;
  optimizer->step(now.lr, factor);
  ++position.optimizer_steps;
  return true;
}

void Trainer::State::validate() {
  const auto start = Clock::now();
  double total = 0;
  std::int64_t tokens = 0;
  for (const auto& file : valid) {
    const Evaluation one = evaluate(*model, *file, config.data.seq_len, config.train.micro_batch,
                                    config.data.document_mask, ranks);
    total += one.loss * static_cast<double>(one.tokens);
    tokens += one.tokens;
  }
  if (metrics && tokens > 0)
    metrics->validation(
        {position.step - 1, tokens, total / static_cast<double>(tokens), seconds_since(start)});
}

// Whether the checkpoint is there. A full disk does not end a run: older checkpoints stand.
bool Trainer::State::save() {
  position.source_samples =
      data->positions(static_cast<std::uint64_t>(position.step * config.train.global_batch));
  const auto start = Clock::now();
  try {
    save_run(config, position, *optimizer, description, device->chosen_kernels, ranks);
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

ExitCode Trainer::State::train() {
  const std::int64_t steps = config.train.steps;
  if (position.step >= steps) log::info("step {} of {} is done: nothing to train", position.step, steps);
  bool saved = true;
  double smoothed = 0;
  while (position.step < steps) {
    StepMetrics now = step();
    smoothed = smoothed == 0 ? now.step_s : 0.9 * smoothed + 0.1 * now.step_s;
    now.eta_s = smoothed * static_cast<double>(steps - position.step);
    if (metrics) {
      metrics->step(now);
      const bool last = position.step == steps;
      if (now.step % config.log.every == 0 || last) Metrics::print_progress(now, steps);
    }
    const bool finite = std::isfinite(now.loss) && std::isfinite(now.grad_norm);
    if (!finite && config.optimizer.on_nonfinite == OnNonfinite::stop) {
      if (ranks.rank() == 0)
        log::error(
            "step {}: loss {} and gradient norm {} are not finite; stopped before the update. Resume from an "
            "earlier checkpoint with a lower learning rate, or set optimizer.on_nonfinite: skip",
            now.step, now.loss, now.grad_norm);
      return ExitCode::numbers_suspect;
    }
    if (!finite)
      log::info("step {}: loss {} or norm {} is not finite: skipped", now.step, now.loss, now.grad_norm);
    const bool stop = ranks.maximum(stop_request()) != 0;
    const bool due = position.step % config.checkpoint.every == 0 || position.step == steps || stop;
    if (due) saved = save();
    if (stop && position.step < steps) {
      log::info("asked to stop: {} at step {}", saved ? "saved" : "NOT saved", position.step);
      return saved ? ExitCode::requeue : ExitCode::failure;
    }
    const bool evaluates =
        config.log.eval_every > 0 && (position.step % config.log.eval_every == 0 || position.step == steps);
    if (evaluates && !valid.empty()) validate();
  }
  return saved ? ExitCode::ok : ExitCode::failure;
}

Trainer::Trainer(const Config& config, ProcessGroup& ranks, const TrainOptions& options)
    : state_(std::make_unique<State>(config, ranks, options)) {
  State& s = *state_;
  if (ranks.rank() == 0) s.lock.emplace(config.checkpoint.dir);
  ranks.barrier();
  RunSetup setup = set_up_run(s.config, ranks, options);
  s.device = std::move(setup.device);
  s.data = std::move(setup.data);
  s.valid = std::move(setup.valid);
  s.description = std::move(setup.description);
  s.model = std::move(setup.model);
  s.optimizer = std::make_unique<AdamW>(s.model->parameters(),
                                        AdamWOptions{config.optimizer.beta1, config.optimizer.beta2,
                                                     config.optimizer.eps, config.optimizer.weight_decay});
  s.gradients = bind_gradients(s.optimizer->parameters(), *s.device);
  if (options.fresh && !list_checkpoints(config.checkpoint.dir).empty())
    fail_usage("--fresh: '{}' holds checkpoints; use another checkpoint.dir or remove them",
               config.checkpoint.dir);
  const auto resumed = load_run(s.config, *s.optimizer, ranks, s.device->wished_kernels);
  if (resumed)
    s.position = *resumed;
  else
    s.position.reduce_groups = s.config.parallel.reduce_groups.value_or(ranks.size());
  if (!resumed) initialize_weights(s.config, *s.model);
  s.choose_groups();
  if (ranks.rank() != 0) return;
  print_start_table(s.config, *s.model, s.description, s.groups, ranks, options);
  if (resumed) log::info("resumed from step {} of '{}'", s.position.step, config.checkpoint.dir);
  s.metrics =
      std::make_unique<Metrics>(config.log.dir,
                                RunHeader{config_json(s.config), s.data->file(0).info().tokenizer_sha256,
                                          ranks.size(), seconds_since_process_start()},
                                s.position.step);
}

Trainer::~Trainer() = default;

ExitCode Trainer::run() {
  return state_->train();
}

}  // namespace tessera
