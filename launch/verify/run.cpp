#include "launch/verify/run.h"

#include <algorithm>
#include <mutex>

#include "core/base/error.h"
#include "core/base/philox.h"
#include "core/tensor/device.h"
#include "launch/batches.h"
#include "parallel/comm/local.h"

namespace tessera::verify {
namespace {

// Collects the ranks' parts; every element must come once.
class Collector {
 public:
  void add(std::map<std::string, Whole>& tensors, const Engine::Owned& part, const Tensor& values) {
    const std::lock_guard lock(mutex_);
    Whole& whole = tensors[part.name];
    if (whole.values.empty()) {
      whole.shape = part.global;
      whole.values.resize(static_cast<std::size_t>(part.global.numel()));
      seen_[&whole].resize(whole.values.size());
    }
    std::vector<char>& seen = seen_[&whole];
    const std::int64_t width = part.global.rank() == 2 ? part.global[1] : 1;
    const std::int64_t columns = values.rank() == 2 ? values.size(1) : 1;
    std::vector<float> host(static_cast<std::size_t>(values.numel()));
    values.to_host(host.data());
    for (std::int64_t row = 0; row < values.size(0); ++row)
      for (std::int64_t column = 0; column < columns; ++column) {
        const auto at = static_cast<std::size_t>((part.row + row) * width + part.column + column);
        if (seen[at] != 0) fail("element {} of tensor '{}' has two owners", at, part.name);
        seen[at] = 1;
        whole.values[at] = host[static_cast<std::size_t>(row * columns + column)];
      }
  }
  void check_complete(const std::map<std::string, Whole>& tensors) const {
    for (const auto& [name, whole] : tensors) {
      const std::vector<char>& seen = seen_.at(&whole);
      const auto missing = std::find(seen.begin(), seen.end(), 0);
      if (missing != seen.end()) fail("element {} of tensor '{}' has no owner", missing - seen.begin(), name);
    }
  }

 private:
  std::mutex mutex_;
  std::map<const Whole*, std::vector<char>> seen_;
};

std::int64_t counted_targets(const Subject& subject, int step) {
  std::int64_t counted = 0;
  for (std::int64_t i = 0; i < subject.batch.global_batch; ++i)
    counted +=
        draw_sample(subject, static_cast<std::uint64_t>(step * subject.batch.global_batch + i)).counted;
  return counted;
}

void run_rank(const Subject& subject, const ParallelLayout& layout, ProcessGroup& world, Record& record,
              Collector& collector) {
  const auto device = make_device(DeviceKind::cpu, {0, 1});
  Engine engine(subject.spec, *device, world, layout, subject.model, subject.batch, subject.reduce_groups,
                subject.optimizer);
  engine.initialize(subject.seed);
  device->reset_peak();
  const std::vector<std::int64_t> microbatches = engine.microbatches();
  const std::vector<PositionRange> positions = engine.positions();
  for (int step = 0; step < subject.steps; ++step) {
    const auto load = [&](std::size_t i) {
      std::vector<Sample> samples;
      const std::int64_t first =
          step * subject.batch.global_batch + microbatches[i] * subject.batch.micro_batch;
      for (std::int64_t s = 0; s < subject.batch.micro_batch; ++s)
        samples.push_back(draw_sample(subject, static_cast<std::uint64_t>(first + s)));
      return make_batch(samples, subject.document_mask, *device, positions);
    };
    const double loss = engine.run_step(load, counted_targets(subject, step));
    const double norm = engine.gradient_norm();
    if (step == 0)
      for (const Engine::Owned& part : engine.owned())
        if (part.gradient.defined()) collector.add(record.gradients, part, part.gradient);
    if (world.rank() == 0) {
      record.losses.push_back(loss);
      record.norms.push_back(norm);
    }
    engine.update(subject.lr, subject.clip > 0 ? std::min(1.0, subject.clip / (norm + 1e-6)) : 1.0);
  }
  for (const Engine::Owned& part : engine.owned()) collector.add(record.weights, part, part.weight);
  record.peak_bytes[static_cast<std::size_t>(world.rank())] = device->memory().peak;
}

}  // namespace

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
    const bool begins = subject.document_mask && uniform(key, first + length + 1 + i) < 0.1F;
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

Record run(const Subject& subject, const ParallelLayout& layout) {
  Record record;
  record.peak_bytes.resize(static_cast<std::size_t>(layout.mesh.ranks()));
  Collector collector;
  run_local_ranks(layout.mesh.ranks(),
                  [&](ProcessGroup& world) { run_rank(subject, layout, world, record, collector); });
  collector.check_complete(record.gradients);
  collector.check_complete(record.weights);
  return record;
}

}  // namespace tessera::verify
