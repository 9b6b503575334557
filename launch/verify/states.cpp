#include "launch/verify/states.h"

#include <cmath>

#include "core/base/error.h"

namespace tessera::verify {
namespace {

template <class Visit>
void for_each_state(const Engine::Owned& part, Visit visit) {
  visit(part.name, "weight", part.weight);
  if (!part.first_moment.defined()) return;
  visit("first moment of " + part.name, "adam_m", part.first_moment);
  visit("second moment of " + part.name, "adam_v", part.second_moment);
}

struct Corner {
  std::int64_t row = 0, column = 0;
};

// Element (i, j) of a part whose first one lies there in the whole; NaN beyond its end.
float element(const Whole& whole, const Corner& at, std::int64_t i, std::int64_t j) {
  const std::int64_t width = whole.shape.rank() == 2 ? whole.shape[1] : 1;
  const std::int64_t row = at.row + i;
  const std::int64_t column = at.column + j;
  if (row < 0 || row >= whole.shape[0] || column < 0 || column >= width) return std::nanf("");
  return whole.values[static_cast<std::size_t>(row * width + column)];
}

// Elements of a part that are not those of the whole at this place, those beyond its end aside.
std::int64_t wrong_at(const Whole& whole, const Corner& at, const std::vector<float>& values,
                      std::int64_t columns) {
  std::int64_t wrong = 0;
  for (std::size_t n = 0; n < values.size(); ++n) {
    const auto index = static_cast<std::int64_t>(n);
    const float expected = element(whole, at, index / columns, index % columns);
    wrong += expected == values[n] || std::isnan(expected) ? 0 : 1;
  }
  return wrong;
}

std::string difference(const Whole& whole, const Corner& at, const std::vector<float>& values,
                       std::int64_t columns) {
  const std::int64_t wrong = wrong_at(whole, at, values, columns);
  if (wrong == 0) return "";
  for (const std::int64_t row : {at.row - 1, at.row + 1, std::int64_t{0}})
    if (row != at.row && wrong_at(whole, {row, at.column}, values, columns) == 0)
      return fmt::format("rows from {} on hold those from {} on", at.row, row);
  if (at.column != 0 && wrong_at(whole, {at.row, 0}, values, columns) == 0)
    return fmt::format("columns from {} on hold those from 0 on", at.column);
  return fmt::format("{} of {} elements from row {}, column {} on are wrong", wrong, values.size(), at.row,
                     at.column);
}

std::string difference(const Whole& whole, const Corner& at, const Tensor& part) {
  std::vector<float> values(static_cast<std::size_t>(part.numel()));
  part.to_host(values.data());
  return difference(whole, at, values, part.rank() == 2 ? part.size(1) : 1);
}

}  // namespace

void States::add(const std::vector<Engine::Owned>& parts) {
  for (const Engine::Owned& part : parts)
    for_each_state(part, [&](const std::string& key, const char* state, const Tensor& values) {
      std::vector<float> host(static_cast<std::size_t>(values.numel()));
      values.to_host(host.data());
      const std::lock_guard lock(mutex_);
      State& one = all_[key];
      one.tensor = part.name;
      one.name = state;
      Whole& whole = one.whole;
      whole.shape = part.global;
      whole.values.resize(static_cast<std::size_t>(part.global.numel()));
      const std::int64_t width = part.global.rank() == 2 ? part.global[1] : 1;
      const std::int64_t columns = values.rank() == 2 ? values.size(1) : 1;
      for (std::int64_t i = 0; i < values.numel(); ++i)
        whole.values[static_cast<std::size_t>((part.row + i / columns) * width + part.column + i % columns)] =
            host[static_cast<std::size_t>(i)];
    });
}

std::optional<States::Misfit> States::misfit(const std::vector<Engine::Owned>& parts, bool moments) const {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::optional<Misfit> found;
    for_each_state(parts[i], [&](const std::string& name, const char*, const Tensor& values) {
      if (found || (!moments && name != parts[i].name)) return;
      const auto whole = all_.find(name);
      const std::string what = whole == all_.end()
                                   ? "no rank speaks for it"
                                   : difference(whole->second.whole, {parts[i].row, parts[i].column}, values);
      if (!what.empty()) found = {i, name, what};
    });
    if (found) return found;
  }
  return std::nullopt;
}

std::optional<States::Misfit> States::misfit(const LoadedCheckpoint& checkpoint) const {
  for (const auto& [key, state] : all_) {
    const TensorInfo* info = checkpoint.find(state.tensor, state.name);
    if (info == nullptr) return Misfit{0, key, "the checkpoint does not hold it"};
    std::vector<float> values(state.whole.values.size());
    if (info->shape.front() != state.whole.shape[0] || info->dtype != DType::f32)
      return Misfit{0, key, "the checkpoint holds another shape of it"};
    checkpoint.read_whole(state.tensor, state.name, values.data());
    const std::int64_t width = state.whole.shape.rank() == 2 ? state.whole.shape[1] : 1;
    if (const std::string what = difference(state.whole, {0, 0}, values, width); !what.empty())
      return Misfit{0, key, what};
  }
  return std::nullopt;
}

}  // namespace tessera::verify
