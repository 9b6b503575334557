#include "launch/batches.h"

#include <algorithm>

#include "core/base/activity.h"
#include "core/base/mutant.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

Tensor rows_of(std::span<const Sample> samples, std::span<const PositionRange> positions,
               const std::vector<std::int32_t> Sample::*member, Device& device) {
  std::vector<std::int32_t> values;
  for (const Sample& sample : samples)
    for (const PositionRange& range : positions)
      values.insert(values.end(), (sample.*member).begin() + range.begin,
                    (sample.*member).begin() + range.end);
  const auto rows = static_cast<std::int64_t>(samples.size());
  return Tensor::from_host(values.data(), {rows, static_cast<std::int64_t>(values.size()) / rows}, DType::i32,
                           device);
}

}  // namespace

Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device,
                 std::span<const PositionRange> positions) {
  assert(!samples.empty());
  Tensor places = rows_of(samples, positions, &Sample::positions, device);
  if (mutant("positions_not_offset")) places = plain_positions(places.size(0), places.size(1), device);
  std::vector<PositionRange> targets(positions.begin(), positions.end());
  if (mutant("targets_of_first_piece")) targets.back() = targets.front();
  return {rows_of(samples, positions, &Sample::tokens, device), places,
          document_mask ? rows_of(samples, positions, &Sample::doc_start, device) : Tensor(),
          rows_of(samples, targets, &Sample::targets, device)};
}

Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device) {
  assert(!samples.empty());
  const PositionRange all{0, static_cast<std::int64_t>(samples[0].targets.size())};
  return make_batch(samples, document_mask, device, std::span(&all, 1));
}

StepData read_step(const Engine& engine, const Dataset& data, const BatchShape& batch, std::int64_t step) {
  StepData read;
  for (const std::int64_t index : engine.microbatches()) {
    const std::int64_t unshared = mutant("ranks_read_the_same") ? engine.microbatches().front() : 0;
    const std::int64_t first = step * batch.global_batch + (index - unshared) * batch.micro_batch;
    std::vector<Sample>& samples = read.microbatches.emplace_back();
    for (std::int64_t i = first; i < first + batch.micro_batch; ++i) {
      samples.push_back(data.sample(static_cast<std::uint64_t>(i)));
      read.counted += samples.back().counted;
    }
  }
  return read;
}

std::int64_t count_targets(const Engine& engine, const StepData& step) {
  if (mutant("targets_counted_by_each_rank")) return step.counted;
  if (mutant("targets_counted_over_all_ranks")) return engine.mesh().world().sum(step.counted);
  return engine.mesh().group(Axis::dp).sum(step.counted);
}

Batch load_batch(const Engine& engine, const StepData& step, std::size_t i, bool document_mask) {
  const Mesh& mesh = engine.mesh();
  if (mutant("last_stage_reads_late") && mesh.index(Axis::pp) + 1 == mesh.size(Axis::pp) && i > 0) --i;
  return make_batch(step.microbatches[i], document_mask, engine.device(), engine.positions());
}

namespace {

// Window `first` of a file and those after it, as many as a microbatch has; beyond the end a copy of an
// earlier one whose targets do not count, so that every rank takes part in every forward pass.
std::vector<Sample> windows_from(const TokenFile& file, std::int64_t first, const BatchShape& batch,
                                 bool document_mask) {
  const std::int64_t count = windows(file, batch.seq_len);
  std::vector<Sample> samples;
  for (std::int64_t w = first; w < first + batch.micro_batch; ++w) {
    samples.push_back(window(file, std::min(w, count - 1), batch.seq_len, document_mask));
    if (w < count || mutant("validation_counts_copies")) continue;
    std::fill(samples.back().targets.begin(), samples.back().targets.end(), -1);
    samples.back().counted = 0;
  }
  return samples;
}

}  // namespace

Evaluation evaluate(Engine& engine, const TokenFile& file, const BatchShape& batch, bool document_mask,
                    const std::function<bool()>& wants_to_leave) {
  require_windows(file, batch.seq_len);
  const std::int64_t count = windows(file, batch.seq_len);
  ProcessGroup& ranks = engine.mesh().group(Axis::dp);
  const std::int64_t batches = (count + batch.micro_batch - 1) / batch.micro_batch;
  const std::int64_t share = (batches + ranks.size() - 1) / ranks.size();
  const std::vector<PositionRange> positions = engine.positions();
  std::vector<double> mine;
  std::int64_t tokens = 0;
  for (std::int64_t i = 0; i < share; ++i) {
    if (i > 0 && wants_to_leave && wants_to_leave()) return {.is_left = true};
    set_position(fmt::format("validation: batch {} of {} of '{}'", i + 1, share, file.path().string()));
    const auto samples = windows_from(
        file, (ranks.rank() * (mutant("validation_shares_overlap") ? 1 : share) + i) * batch.micro_batch,
        batch, document_mask);
    for (const Sample& sample : samples) tokens += sample.counted;
    mine.push_back(engine.evaluate(make_batch(samples, document_mask, engine.device(), positions)));
  }
  Evaluation result{0, ranks.sum(tokens), file.info().text_bytes};
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks.size()), share);
  if (mutant("mean_of_means"))
    for (double& loss : mine)
      loss *= static_cast<double>(result.tokens) /
              static_cast<double>(std::max<std::int64_t>(1, tokens) * ranks.size());
  for (const double loss : ranks.all_gather(mine, counts)) result.loss += loss;
  result.loss /= static_cast<double>(std::max<std::int64_t>(1, result.tokens));
  return result;
}

Evaluation evaluate(Engine& engine, std::span<const std::unique_ptr<TokenFile>> files,
                    const BatchShape& batch, bool document_mask,
                    const std::function<bool()>& wants_to_leave) {
  Evaluation all;
  for (const auto& file : files) {
    const Evaluation one = evaluate(engine, *file, batch, document_mask, wants_to_leave);
    if (one.is_left) return one;
    all.loss += one.loss * static_cast<double>(one.tokens);
    all.tokens += one.tokens;
    all.text_bytes += one.text_bytes;
  }
  all.loss /= static_cast<double>(std::max<std::int64_t>(1, all.tokens));
  return all;
}

}  // namespace tessera
