#include "launch/verify/collect.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/tensor/elementwise.h"

namespace tessera::verify {
namespace {

// Values in host memory as fp32.
std::vector<float> floats_of(const Tensor& values) {
  Tensor exact = values.detach();
  if (values.dtype() != DType::f32) {
    exact = Tensor::empty(values.shape(), DType::f32, values.device());
    convert(values.detach(), exact);
  }
  std::vector<float> host(static_cast<std::size_t>(values.numel()));
  exact.to_host(host.data());
  return host;
}

}  // namespace

TokenMap::TokenMap(const BatchShape& batch, const std::vector<PositionRange>& positions, const Mesh& mesh)
    : total(batch.micro_batch * batch.seq_len), seq_len_(batch.seq_len) {
  for (const PositionRange& range : positions)
    for (std::int64_t p = range.begin; p < range.end; ++p) positions_.push_back(p);
  const auto local = batch.micro_batch * static_cast<std::int64_t>(positions_.size());
  first = local / mesh.size(Axis::tp) * mesh.index(Axis::tp);
}

std::int64_t TokenMap::whole(std::int64_t t) const {
  const auto length = static_cast<std::int64_t>(positions_.size());
  return t / length * seq_len_ + positions_[static_cast<std::size_t>(t % length)];
}

Whole& Collector::whole_of(Tensors& tensors, const std::string& name, const Shape& shape) {
  Whole& whole = tensors[name];
  if (whole.values.empty()) {
    whole.shape = shape;
    whole.values.resize(static_cast<std::size_t>(shape.numel()));
    seen_[&whole].assign(whole.values.size(), 0);
  }
  return whole;
}

void Collector::put(Whole& whole, const std::string& name, std::int64_t at, float value) {
  char& seen = seen_.at(&whole)[static_cast<std::size_t>(at)];
  if (seen != 0) uncovered_.emplace(name, fmt::format("two ranks speak for its element {}", at));
  seen = 1;
  whole.values[static_cast<std::size_t>(at)] = value;
}

void Collector::add(Tensors& tensors, const std::string& name, const Shape& shape, std::int64_t row,
                    std::int64_t column, const Tensor& values) {
  const std::lock_guard lock(mutex_);
  Whole& whole = whole_of(tensors, name, shape);
  const std::int64_t width = shape.rank() == 2 ? shape[1] : 1;
  const std::int64_t columns = values.rank() == 2 ? values.size(1) : 1;
  std::vector<float> host(static_cast<std::size_t>(values.numel()));
  values.to_host(host.data());
  for (std::int64_t i = 0; i < values.numel(); ++i)
    put(whole, name, (row + i / columns) * width + column + i % columns, host[static_cast<std::size_t>(i)]);
}

void Collector::add_rows(Tensors& tensors, const std::string& name, const TokenMap& tokens,
                         const Tensor& rows) {
  const std::lock_guard lock(mutex_);
  const std::int64_t width = rows.size(1);
  Whole& whole = whole_of(tensors, name, {tokens.total, width});
  const std::vector<float> host = floats_of(rows);
  for (std::int64_t t = 0; t < rows.size(0); ++t)
    for (std::int64_t i = 0; i < width; ++i) {
      const auto at = static_cast<std::size_t>(tokens.whole(tokens.first + t) * width + i);
      seen_.at(&whole)[at] = 1;  // a pass that counts experts' loads comes before the one that trains
      whole.values[at] = host[static_cast<std::size_t>(t * width + i)];
    }
}

void Collector::add_copy(Tensors& tensors, std::vector<std::string>& disagreed, const std::string& name,
                         const Shape& shape, std::int64_t row, std::int64_t column, const Tensor& values) {
  const std::vector<float> host = floats_of(values);
  const std::lock_guard lock(mutex_);
  Whole& whole = tensors[name];
  if (whole.values.empty()) {
    whole.shape = shape;
    whole.values.assign(static_cast<std::size_t>(shape.numel()), std::nanf(""));
  }
  const std::int64_t width = shape.rank() == 2 ? shape[1] : 1;
  const std::int64_t columns = values.rank() == 2 ? values.size(1) : 1;
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    float& known = whole.values[static_cast<std::size_t>((row + i / columns) * width + column + i % columns)];
    const float value = host[static_cast<std::size_t>(i)];
    if (std::isnan(known)) known = value;
    if (known == value) continue;
    disagreed.push_back(name);
    return;
  }
}

void Collector::add_batch_fault(Record& record, std::int64_t microbatch, const std::string& fault) {
  const std::lock_guard lock(mutex_);
  record.batch_faults.emplace(microbatch, fault);
}

void Collector::check_complete(const Tensors& tensors) {
  for (const auto& [name, whole] : tensors) {
    const std::vector<char>& seen = seen_.at(&whole);
    const auto missing = std::find(seen.begin(), seen.end(), 0);
    if (missing != seen.end())
      uncovered_.emplace(name, fmt::format("no rank speaks for its element {}", missing - seen.begin()));
  }
}

Tensor ChoiceObserver::choose(const std::string& layer, std::int64_t first, const Tensor& scores,
                              const Tensor& chosen) {
  const auto k = static_cast<std::size_t>(chosen.size(1));
  const auto experts = static_cast<std::size_t>(scores.size(1));
  std::vector<std::int32_t> own(static_cast<std::size_t>(chosen.numel()));
  std::vector<float> score(static_cast<std::size_t>(scores.numel()));
  chosen.to_host(own.data());
  scores.to_host(score.data());
  const std::lock_guard lock(collector_.mutex());
  const auto key = std::pair(layer, tokens_.microbatch);
  if (replay_ == nullptr) {
    auto& all = record_.choices[key];
    all.resize(static_cast<std::size_t>(tokens_.total) * k);
    for (std::size_t t = 0; t < own.size() / k; ++t)
      std::copy_n(
          own.begin() + static_cast<std::ptrdiff_t>(t * k), k,
          all.begin() + tokens_.whole(first + static_cast<std::int64_t>(t)) * static_cast<std::ptrdiff_t>(k));
    return chosen;
  }
  const std::vector<std::int32_t>& recorded = replay_->at(key);
  for (std::size_t t = 0; t < own.size() / k; ++t) {
    const std::int64_t token = tokens_.whole(first + static_cast<std::int64_t>(t));
    const auto past = std::span(recorded).subspan(static_cast<std::size_t>(token) * k, k);
    const auto now = std::span(own).subspan(t * k, k);
    note_other(layer, token, std::span(score).subspan(t * experts, experts), now, past);
    std::copy(past.begin(), past.end(), now.begin());
  }
  return Tensor::from_host(own.data(), chosen.shape(), DType::i32, chosen.device());
}

// The order among chosen experts does not matter, only who is in and who is out.
void ChoiceObserver::note_other(const std::string& layer, std::int64_t token, std::span<const float> scores,
                                std::span<const std::int32_t> chosen,
                                std::span<const std::int32_t> recorded) {
  const auto lacks = [](std::span<const std::int32_t> list, std::int32_t expert) {
    return std::find(list.begin(), list.end(), expert) == list.end();
  };
  double gap = -1;
  for (const std::int32_t in : chosen)
    for (const std::int32_t out : recorded)
      if (lacks(recorded, in) && lacks(chosen, out))
        gap = std::max(gap, static_cast<double>(scores[static_cast<std::size_t>(in)]) -
                                static_cast<double>(scores[static_cast<std::size_t>(out)]));
  if (gap >= 0) record_.other_choices.push_back({layer, tokens_.microbatch, token, gap});
}

}  // namespace tessera::verify
