#include "launch/batches.h"

#include "core/autograd/tape.h"
#include "core/base/error.h"
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
  return {rows_of(samples, positions, &Sample::tokens, device),
          rows_of(samples, positions, &Sample::positions, device),
          document_mask ? rows_of(samples, positions, &Sample::doc_start, device) : Tensor(),
          rows_of(samples, positions, &Sample::targets, device)};
}

Batch make_batch(std::span<const Sample> samples, bool document_mask, Device& device) {
  assert(!samples.empty());
  const PositionRange all{0, static_cast<std::int64_t>(samples[0].targets.size())};
  return make_batch(samples, document_mask, device, std::span(&all, 1));
}

Evaluation evaluate(Model& model, const TokenFile& file, std::int64_t seq_len, std::int64_t micro_batch,
                    bool document_mask, ProcessGroup& ranks) {
  const NoGrad no_grad;
  Device& device = model.device();
  const std::int64_t count = windows(file, seq_len);
  if (count == 0) fail("'{}' has fewer tokens than one window of {} + 1", file.path().string(), seq_len);
  const float one = 1;
  const Tensor factor = Tensor::from_host(&one, {1}, DType::f32, device);
  const std::int64_t batches = (count + micro_batch - 1) / micro_batch;
  const std::int64_t share = (batches + ranks.size() - 1) / ranks.size();
  const Tensor mine = Tensor::zeros({share}, DType::f64, device);
  std::int64_t tokens = 0;
  for (std::int64_t i = 0; i < share; ++i) {
    const std::int64_t batch = ranks.rank() * share + i;
    if (batch >= batches) break;
    std::vector<Sample> samples;
    for (std::int64_t w = batch * micro_batch; w < std::min(count, (batch + 1) * micro_batch); ++w) {
      samples.push_back(window(file, w, seq_len, document_mask));
      tokens += samples.back().counted;
    }
    model.loss(make_batch(samples, document_mask, device), factor).to_host(mine.data<double>() + i);
  }
  const Tensor all = Tensor::empty({share * ranks.size()}, DType::f64, device);
  ranks.all_gather(all, mine);
  Evaluation result{0, ranks.sum(tokens), file.info().text_bytes};
  for (std::int64_t i = 0; i < all.numel(); ++i) result.loss += all.data<double>()[i];
  result.loss /= static_cast<double>(std::max<std::int64_t>(1, result.tokens));
  return result;
}

}  // namespace tessera
