#include "launch/batches.h"

#include <algorithm>

#include "core/base/activity.h"
#include "core/base/error.h"
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
  return {rows_of(samples, positions, &Sample::tokens, device), places,
          document_mask ? rows_of(samples, positions, &Sample::doc_start, device) : Tensor(),
          rows_of(samples, positions, &Sample::targets, device)};
}

Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device) {
  assert(!samples.empty());
  const PositionRange all{0, static_cast<std::int64_t>(samples[0].targets.size())};
  return make_batch(samples, document_mask, device, std::span(&all, 1));
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
    if (w < count) continue;
    std::fill(samples.back().targets.begin(), samples.back().targets.end(), -1);
    samples.back().counted = 0;
  }
  return samples;
}

}  // namespace

Evaluation evaluate(Engine& engine, const TokenFile& file, const BatchShape& batch, bool document_mask) {
  const std::int64_t count = windows(file, batch.seq_len);
  if (count == 0)
    fail("'{}' has fewer tokens than one window of {} + 1", file.path().string(), batch.seq_len);
  ProcessGroup& ranks = engine.mesh().group(Axis::dp);
  const std::int64_t batches = (count + batch.micro_batch - 1) / batch.micro_batch;
  const std::int64_t share = (batches + ranks.size() - 1) / ranks.size();
  const std::vector<PositionRange> positions = engine.positions();
  std::vector<double> mine;
  std::int64_t tokens = 0;
  for (std::int64_t i = 0; i < share; ++i) {
    set_position(fmt::format("validation: batch {} of {} of '{}'", i + 1, share, file.path().string()));
    const auto samples =
        windows_from(file, (ranks.rank() * share + i) * batch.micro_batch, batch, document_mask);
    for (const Sample& sample : samples) tokens += sample.counted;
    mine.push_back(engine.evaluate(make_batch(samples, document_mask, engine.device(), positions)));
  }
  Evaluation result{0, ranks.sum(tokens), file.info().text_bytes};
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks.size()), share);
  for (const double loss : ranks.all_gather(mine, counts)) result.loss += loss;
  result.loss /= static_cast<double>(std::max<std::int64_t>(1, result.tokens));
  return result;
}

}  // namespace tessera
