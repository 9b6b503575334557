#include "launch/verify/life.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/base/error.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "launch/run_setup.h"
#include "launch/run_state.h"
#include "launch/verify/batch_check.h"
#include "launch/verify/life_files.h"
#include "launch/verify/states.h"
#include "parallel/comm/local.h"

namespace tessera::verify {
namespace {

namespace fs = std::filesystem;

// What a life consists of, in its order.
enum class Stage { import, first_step, second_step, save, validation, resume, third_step, end };

// The fault that comes first in order of execution, whichever rank and thread meets it first.
class Findings {
 public:
  // `order`: within a stage.
  void add(Stage stage, std::size_t order, Fault fault) {
    const std::lock_guard lock(mutex_);
    const auto key = std::pair(stage, order);
    if (!first_ || key < key_) first_ = std::move(fault);
    key_ = std::min(key, key_);
  }
  const std::optional<Fault>& first() const { return first_; }

 private:
  std::mutex mutex_;
  std::optional<Fault> first_;
  std::pair<Stage, std::size_t> key_{Stage::end, ~std::size_t{0}};
};

// What a third step came to.
struct Outcome {
  double loss = 0, norm = 0;
};

class Life {
 public:
  Life(const Config& config, const ReleaseConfig& release, const Subject& subject,
       const ParallelLayout& layout, const Place& place)
      : config_(config),
        subject_(subject),
        layout_(layout),
        place_(place),
        description_{release, subject.model.compute, {}} {
    config_.train.global_batch = subject.batch.global_batch;
    config_.train.micro_batch = subject.batch.micro_batch;
    config_.data.seq_len = subject.batch.seq_len;
    config_.checkpoint.dir = (folder_.path() / "run").string();
    description_.release.spec = subject.spec;
    // Its tokens choose as they like: any load must find room.
    if (layout_.expert_buffer > 0) layout_.expert_buffer = layout_.mesh.ep;
    files_ = write_life_files(subject, config, layout, folder_.path());
    evaluations_.resize(static_cast<std::size_t>(layout.mesh.ranks()));
  }

  std::optional<Fault> run() {
    run_local_ranks(1, [&](ProcessGroup& world) { save_first(world); });
    run_local_ranks(layout_.mesh.ranks(), [&](ProcessGroup& world) { live(world); });
    run_local_ranks(1, [&](ProcessGroup& world) { read_alone(world); });
    return findings_.first();
  }

 private:
  struct Rank {
    Rank(Life& life, ProcessGroup& host)
        : device(life.place_.make_device ? life.place_.make_device(host.rank())
                                         : make_device(DeviceKind::cpu, {0, 1})),
          own(life.place_.make_group ? life.place_.make_group(host, *device) : nullptr),
          world(own ? *own : host) {}
    std::unique_ptr<Device> device;
    std::unique_ptr<ProcessGroup> own;
    ProcessGroup& world;
  };

  std::unique_ptr<Engine> make_engine(Rank& rank, const ParallelLayout& layout) const {
    return std::make_unique<Engine>(subject_.spec, *rank.device, rank.world, layout, subject_.model,
                                    subject_.batch, subject_.reduce_groups, subject_.optimizer);
  }

  // One rank's weights, for all to import.
  void save_first(ProcessGroup& host) {
    Rank rank(*this, host);
    const auto engine = make_engine(rank, {});
    draw_weights(subject_, *engine);
    Config elsewhere = config_;
    elsewhere.checkpoint.dir = (folder_.path() / "import").string();
    RunPosition position;
    position.reduce_groups = subject_.reduce_groups;
    save_run(elsewhere, position, *engine, description_, open_train(), host);
    first_.add(engine->owned());
  }

  void live(ProcessGroup& host) {
    Rank rank(*this, host);
    const auto engine = make_engine(rank, layout_);
    load_weights(*engine, checkpoint_source(open_checkpoint(folder_.path() / "import"), description_));
    check_states(Stage::import, "import", first_, engine->held(), host.rank());
    const Dataset data = open_train();
    RunPosition position;
    position.reduce_groups = subject_.reduce_groups;
    train(*engine, data, position, Stage::first_step);
    train(*engine, data, position, Stage::second_step);
    saved_.add(engine->owned());
    save_run(config_, position, *engine, description_, data, host);
    evaluations_[static_cast<std::size_t>(host.rank())] =
        evaluate(*engine, open_valid(), subject_.batch, subject_.document_mask);
    const RunPosition at_save = position;
    const Outcome third = train(*engine, data, position, Stage::third_step);
    after_.add(engine->owned());
    host.barrier();  // all have said what they have
    resume(rank, host, data, at_save, third);
  }

  // The third step again, from what was saved: nothing may tell the two apart.
  void resume(Rank& rank, ProcessGroup& host, const Dataset& data, const RunPosition& at_save,
              const Outcome& third) {
    const auto engine = make_engine(rank, layout_);
    const std::optional<SavedRun> saved = find_run(config_, data, host);
    if (!saved) return findings_.add(Stage::resume, 0, {"resume", "the checkpoint just saved is not found"});
    load_run(*saved, *engine);
    RunPosition position = saved->position;
    if (position.step != at_save.step || position.optimizer_steps != at_save.optimizer_steps ||
        position.tokens != at_save.tokens || position.reduce_groups != at_save.reduce_groups)
      findings_.add(Stage::resume, 0,
                    {"resume", fmt::format("it goes on at step {} with {} updates, {} tokens and {} reduce "
                                           "groups; {}, {}, {} and {} were saved",
                                           position.step, position.optimizer_steps, position.tokens,
                                           position.reduce_groups, at_save.step, at_save.optimizer_steps,
                                           at_save.tokens, at_save.reduce_groups)});
    check_states(Stage::resume, "resume", saved_, engine->held(), host.rank());
    const Outcome again = train(*engine, data, position, Stage::third_step);
    if (again.loss != third.loss || again.norm != third.norm)
      findings_.add(
          Stage::end, 0,
          {"resume", fmt::format("the step after it has loss {:.9g} and norm {:.9g}; without a stop "
                                 "they are {:.9g} and {:.9g}",
                                 again.loss, again.norm, third.loss, third.norm)});
    check_states(Stage::end, "the step after resuming", after_, engine->held(), host.rank());
  }

  // On one rank: what the checkpoint holds, and what all windows' losses come to, one after another.
  void read_alone(ProcessGroup& host) {
    Rank rank(*this, host);
    const auto engine = make_engine(rank, {});
    const std::optional<SavedRun> saved = find_run(config_, open_train(), host);
    if (!saved) return findings_.add(Stage::save, 0, {"save", "the checkpoint just saved is not found"});
    if (const auto misfit = saved_.misfit(saved->checkpoint))
      findings_.add(Stage::save, 1, {"save: " + misfit->state, misfit->what});
    load_run(*saved, *engine);
    check_states(Stage::resume, "resume on one rank", saved_, engine->held(), alone);
    double loss = 0;
    std::int64_t tokens = 0;
    for (const auto& file : open_valid())
      for (std::int64_t w = 0; w < windows(*file, subject_.batch.seq_len); ++w) {
        const Sample sample = window(*file, w, subject_.batch.seq_len, subject_.document_mask);
        loss += engine->evaluate(make_batch(std::span(&sample, 1), subject_.document_mask, *rank.device));
        tokens += sample.counted;
      }
    check_validation(loss / static_cast<double>(tokens), tokens);
  }

  // Other experts chosen by rounding, and bf16, move a mean over few tokens by a thousandth.
  void check_validation(double loss, std::int64_t tokens) {
    const bool rough = moe_layers(subject_.spec) > 0 || subject_.model.compute == DType::bf16;
    const double allowed = rough ? 2e-3 : 1e-5;
    for (std::size_t r = 0; r < evaluations_.size(); ++r) {
      const Evaluation& one = evaluations_[r];
      if (one.tokens != tokens)
        findings_.add(Stage::validation, 0,
                      {"validation", fmt::format("rank {} counts {} tokens of {}", r, one.tokens, tokens)});
      if (!(std::fabs(one.loss - loss) <= allowed * loss))
        findings_.add(Stage::validation, 1,
                      {"validation", fmt::format("its loss is {:.9g}; one rank has {:.9g}: {}", one.loss,
                                                 loss, factor_text(one.loss / loss, layout_.mesh))});
    }
  }

  Dataset open_train() const {
    return {files_.train, subject_.batch.seq_len, subject_.document_mask, config_.data.seed};
  }

  std::vector<std::unique_ptr<TokenFile>> open_valid() const {
    std::vector<std::unique_ptr<TokenFile>> files;
    for (const fs::path& path : files_.valid) files.push_back(std::make_unique<TokenFile>(path));
    return files;
  }

  std::vector<Sample> samples_of(const Dataset& data, std::int64_t step, std::int64_t microbatch) const {
    std::vector<Sample> samples;
    const BatchShape& batch = subject_.batch;
    const std::int64_t first = step * batch.global_batch + microbatch * batch.micro_batch;
    for (std::int64_t i = first; i < first + batch.micro_batch; ++i)
      samples.push_back(data.sample(static_cast<std::uint64_t>(i)));
    return samples;
  }

  Outcome train(Engine& engine, const Dataset& data, RunPosition& position, Stage stage) {
    const int rank = engine.mesh().world().rank();
    const std::int64_t step = steps_before(stage);  // and not what the position says
    const StepData read = read_step(engine, data, subject_.batch, position.step);
    const std::int64_t counted = count_targets(engine, read);
    std::int64_t expected = 0;
    for (std::int64_t m = 0; m < subject_.batch.microbatches(); ++m)
      for (const Sample& sample : samples_of(data, step, m)) expected += sample.counted;
    if (counted != expected)
      findings_.add(stage, ~std::size_t{0},
                    {"count of targets", fmt::format("rank {} divides the loss of step {} by {}; {} targets "
                                                     "count",
                                                     rank, step, counted, expected)});
    const std::vector<std::int64_t> microbatches = engine.microbatches();
    engine.run_step(
        [&](std::size_t i) {
          Batch batch = load_batch(engine, read, i, subject_.document_mask);
          check_batch(engine, data, batch, stage, microbatches[i]);
          return batch;
        },
        counted);
    engine.update(subject_.lr, subject_.clip);
    const EngineReport report = engine.next_report();
    ++position.step;
    ++position.optimizer_steps;
    position.tokens += counted;
    return {report.loss, report.norm};
  }

  static std::int64_t steps_before(Stage stage) {
    return stage == Stage::first_step ? 0 : stage == Stage::second_step ? 1 : 2;
  }

  void check_batch(const Engine& engine, const Dataset& data, const Batch& batch, Stage stage,
                   std::int64_t microbatch) {
    const std::int64_t step = steps_before(stage);
    const auto fault = [&](std::int64_t s, std::int64_t m) {
      return batch_fault(batch, samples_of(data, s, m), subject_.document_mask, engine.positions());
    };
    std::string what = fault(step, microbatch);
    if (what.empty()) return;
    for (std::int64_t s = 0; s < 3; ++s)
      for (std::int64_t m = 0; m < subject_.batch.microbatches(); ++m)
        if (fault(s, m).empty()) what = fmt::format("it gets microbatch {} of step {}", m, s);
    findings_.add(stage, static_cast<std::size_t>(microbatch),
                  {"data", fmt::format("microbatch {} of step {} on rank {}: {}", microbatch, step,
                                       engine.mesh().world().rank(), what)});
  }

  static constexpr int alone = -1;

  void check_states(Stage stage, const char* when, const States& expected,
                    const std::vector<Engine::Owned>& held, int rank) {
    // An import brings no moments.
    if (const auto misfit = expected.misfit(held, stage != Stage::import))
      findings_.add(stage, misfit->order + 1,
                    {fmt::format("{}: {}", when, misfit->state),
                     fmt::format("{}{}", rank < 0 ? "" : fmt::format("rank {}: ", rank), misfit->what)});
  }

  TemporaryFolder folder_;
  Config config_;
  const Subject& subject_;
  ParallelLayout layout_;
  const Place& place_;
  ModelDescription description_;
  LifeFiles files_;
  Findings findings_;
  States first_, saved_, after_;         // imported; after two steps; after three
  std::vector<Evaluation> evaluations_;  // by rank
};

}  // namespace

std::optional<Fault> live(const Config& config, const ReleaseConfig& release, const Subject& subject,
                          const ParallelLayout& layout, const Place& place) {
  return Life(config, release, subject, layout, place).run();
}

}  // namespace tessera::verify
