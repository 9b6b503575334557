#include "launch/verify/run.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <set>

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/base/philox.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "launch/verify/batch_check.h"
#include "launch/verify/collect.h"
#include "parallel/comm/local.h"

namespace tessera::verify {
namespace {

std::int64_t counted_targets(const Subject& subject, int step) {
  std::int64_t counted = 0;
  for (std::int64_t i = 0; i < subject.batch.global_batch; ++i)
    counted +=
        draw_sample(subject, static_cast<std::uint64_t>(step * subject.batch.global_batch + i)).counted;
  return counted;
}

// A parameter's first value: what its initialiser drew, and a little more by (seed, name, index); so too of
// what is not trained.
void perturb(const Subject& subject, Engine& engine) {
  for (const Engine::Owned& part : engine.held()) {
    const Key key(subject.seed, part.name + " perturbed");
    const std::int64_t width = part.global.rank() == 2 ? part.global[1] : 1;
    const std::int64_t columns = part.weight.numel() / part.weight.size(0);
    std::vector<float> values(static_cast<std::size_t>(part.weight.numel()));
    std::vector<float> noise(static_cast<std::size_t>(columns));
    part.weight.to_host(values.data());
    for (std::int64_t row = 0; row < part.weight.size(0); ++row) {
      fill_normal(noise, key, 0.05F, static_cast<std::uint64_t>((part.row + row) * width + part.column));
      for (std::int64_t i = 0; i < columns; ++i)
        values[static_cast<std::size_t>(row * columns + i)] += noise[static_cast<std::size_t>(i)];
    }
    part.weight.device().copy(part.weight.raw(), values.data(), part.weight.bytes());
  }
  engine.weights_changed();
}

// One rank's run.
class RankRun {
 public:
  RankRun(const Subject& subject, const ParallelLayout& layout, ProcessGroup& world, Device& device,
          const Choices* replay, Record& record, Collector& collector)
      : subject_(subject),
        record_(record),
        collector_(collector),
        device_(device),
        engine_(subject.spec, device_, world, layout, subject.model, subject.batch, subject.reduce_groups,
                subject.optimizer),
        tokens_(subject.batch, engine_.positions(), engine_.mesh()),
        observer_(tokens_, replay, record, collector) {
    for (Moe* moe : engine_.experts()) moe->set_observer(&observer_);
    for (const auto& chunk : engine_.chunks())
      for (Module* module : chunk->model().modules()) {
        module->set_probe([this](const Module& one, const Tensor& x) { probe(one, x); });
        // A unit's values are there when it is entered.
        if (is_unit(*module)) module->on_enter([this](Module& one) { note_used(one); });
      }
  }

  void run() {
    draw_weights(subject_, engine_);
    for (const Engine::Owned& part : engine_.held())
      collector_.add_copy(record_.first_weights, record_.disagreed, part.name, part.global, part.row,
                          part.column, part.weight);
    device_.reset_peak();
    for (step_ = 0; step_ < subject_.steps && !overflowed_; ++step_) run_step();
    for (const Engine::Owned& part : engine_.owned())
      collector_.add(record_.weights, part.name, part.global, part.row, part.column, part.weight);
    const auto rank = static_cast<std::size_t>(engine_.mesh().world().rank());
    record_.peak_bytes[rank] = device_.memory().peak;
    for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::edp, Axis::ep, Axis::etp})
      for (const auto& [kind, bytes] : engine_.mesh().group(axis).bytes_sent())
        record_.bytes_sent[rank][std::string(name_of(axis)) + " " + kind] = bytes;
    for (const auto& [kind, bytes] : engine_.mesh().replicas().bytes_sent())
      record_.bytes_sent[rank]["replicas " + kind] = bytes;
  }

 private:
  void run_step() {
    const std::vector<std::int64_t> microbatches = engine_.microbatches();
    const auto load = [&](std::size_t i) {
      std::vector<Sample> samples;
      const std::int64_t first =
          step_ * subject_.batch.global_batch + microbatches[i] * subject_.batch.micro_batch;
      for (std::int64_t s = 0; s < subject_.batch.micro_batch; ++s)
        samples.push_back(draw_sample(subject_, static_cast<std::uint64_t>(first + s)));
      tokens_.microbatch = step_ * subject_.batch.microbatches() + microbatches[i];
      const Batch batch = make_batch(samples, subject_.document_mask, device_, engine_.positions());
      if (const std::string fault = batch_fault(batch, samples, subject_.document_mask, engine_.positions());
          !fault.empty())
        collector_.add_batch_fault(record_, tokens_.microbatch, fault);
      return batch;
    };
    engine_.run_step(load, counted_targets(subject_, step_));
    if (step_ == 0)
      for (const Engine::Owned& part : engine_.owned())
        if (part.gradient.defined())
          collector_.add(record_.gradients, part.name, part.global, part.row, part.column, part.gradient);
    engine_.update(subject_.lr, subject_.clip);
    const EngineReport report = engine_.next_report();
    if (!report.experts.overflow.empty()) {
      const std::lock_guard lock(collector_.mutex());
      record_.overflows.push_back(report.experts.overflow);
      overflowed_ = true;
    }
    if (engine_.mesh().world().rank() == 0) {
      record_.losses.push_back(report.loss);
      record_.balances.push_back(report.experts.balance);
      record_.norms.push_back(report.norm);
    }
    if (step_ == 0)
      for (const Engine::Owned& part : engine_.owned())
        collector_.add(record_.updated, part.name, part.global, part.row, part.column, part.weight);
  }

  // The residual stream, row by row where its tokens belong.
  void probe(const Module& module, const Tensor& x) {
    if (step_ != 0 || in_backward()) return;
    collector_.add_rows(record_.activations, fmt::format("{} #{}", module.name(), tokens_.microbatch),
                        tokens_, x);
  }

  static bool is_unit(const Module& module) {
    return dynamic_cast<const Embedding*>(&module) != nullptr ||
           dynamic_cast<const Layer*>(&module) != nullptr || dynamic_cast<const Head*>(&module) != nullptr;
  }

  // What ops of this module read in the first two steps.
  void note_used(Module& module) {
    if (step_ > 1 || in_backward() || !noted_.emplace(&module, step_).second) return;
    for (Parameter* parameter : module.parameters())
      for (const Segment& segment : parameter->segments())
        collector_.add_copy(record_.used[step_], record_.disagreed_use[step_], segment.name, segment.global,
                            segment.first_row, segment.first_column,
                            parameter->view(ViewKind::compute).narrow(0, segment.begin, segment.rows));
  }

  const Subject& subject_;
  Record& record_;
  Collector& collector_;
  Device& device_;
  Engine engine_;
  std::set<std::pair<const Module*, int>> noted_;
  TokenMap tokens_;
  ChoiceObserver observer_;
  int step_ = 0;
  bool overflowed_ = false;
};

// Names as forward meets them: of each cell its parameters, then what it makes.
std::vector<std::string> execution_order(const Subject& subject) {
  const auto device = make_device(DeviceKind::meta);
  Model model(subject.spec, *device, subject.model);
  std::vector<std::string> order;
  const auto add_parameters = [&](Module& module) {
    for (const Parameter* parameter : module.parameters())
      for (const Segment& segment : parameter->segments()) order.push_back(segment.name);
  };
  for (Module* module : model.modules()) {
    if (dynamic_cast<Cell*>(module) == nullptr && dynamic_cast<Embedding*>(module) == nullptr &&
        dynamic_cast<Head*>(module) == nullptr)
      continue;
    add_parameters(*module);
    for (std::int64_t m = 0; m < subject.batch.microbatches(); ++m)
      order.push_back(fmt::format("{} #{}", module->name(), m));
  }
  return order;
}

}  // namespace

namespace {

// Whether a document begins at a position. Where pieces of a sequence are told, samples take turns: one whose
// second piece begins a document, one of several documents, one of a single one, one of many.
bool begins_document(const Subject& subject, std::uint64_t ordinal, std::int32_t position, float drawn) {
  if (!subject.document_mask) return false;
  if (subject.piece == 0) return drawn < 0.1F;
  constexpr float chances[] = {0, 0.15F, 0, 0.3F};
  const std::uint64_t turn = ordinal % 4;
  return (turn == 0 && position == subject.piece) || drawn < chances[turn];
}

}  // namespace

void draw_weights(const Subject& subject, Engine& engine) {
  engine.initialize(subject.seed);
  perturb(subject, engine);
}

Sample draw_sample(const Subject& subject, std::uint64_t ordinal) {
  const Key key(subject.seed, "verify batch");
  const auto length = static_cast<std::size_t>(subject.batch.seq_len);
  const std::uint64_t first = ordinal * 2 * (length + 1);
  const auto vocab = static_cast<float>(subject.spec.vocab_size);
  Sample sample;
  for (std::size_t i = 0; i <= length; ++i)
    sample.tokens.push_back(static_cast<std::int32_t>(uniform(key, first + i) * vocab));
  std::int32_t start = 0;
  for (std::size_t i = 0; i < length; ++i) {
    const auto here = static_cast<std::int32_t>(i);
    const bool begins = begins_document(subject, ordinal, here, uniform(key, first + length + 1 + i));
    if (begins && i > 0) {
      start = here;
      sample.targets.back() = -1;
    }
    sample.positions.push_back(here - start);
    sample.doc_start.push_back(start);
    sample.targets.push_back(sample.tokens[i + 1]);
  }
  for (const std::int32_t target : sample.targets) sample.counted += target >= 0 ? 1 : 0;
  return sample;
}

Place place_on(DeviceKind kind) {
  Place place;
  place.make_device = [kind](int rank) { return tessera::make_device(kind, {rank % device_count(kind), 1}); };
  return place;
}

Record run(const Subject& subject, const ParallelLayout& layout, const Choices* replay, const Place& place) {
  Record record;
  const auto ranks = static_cast<std::size_t>(layout.mesh.ranks());
  record.peak_bytes.resize(ranks);
  record.bytes_sent.resize(ranks);
  record.order = execution_order(subject);
  Collector collector(subject);
  run_local_ranks(layout.mesh.ranks(), [&](ProcessGroup& world) {
    const auto device =
        place.make_device ? place.make_device(world.rank()) : make_device(DeviceKind::cpu, {0, 1});
    const auto group = place.make_group ? place.make_group(world, *device) : nullptr;
    RankRun(subject, layout, group ? *group : world, *device, replay, record, collector).run();
  });
  for (const Tensors* tensors : {&record.activations, &record.gradients, &record.updated, &record.weights})
    collector.check_complete(*tensors);
  record.uncovered = collector.uncovered();
  return record;
}

}  // namespace tessera::verify
