#include "parallel/expert_balance.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/mutant.h"
#include "core/ops/expert_load.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

std::int64_t most_experts(const ModelSpec& spec) {
  std::int64_t most = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* moe = std::get_if<MoeSpec>(&cell.body)) most = std::max(most, moe->experts);
  return most;
}

}  // namespace

ExpertBalance::ExpertBalance(const ModelSpec& spec, const BalanceSpec& balance, std::vector<Moe*> experts,
                             const ExpertRoom& room, ProcessGroup& world, Device& device)
    : balance_(balance), experts_(std::move(experts)), room_(room), world_(world) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    for (const CellSpec& cell : spec.layers[i])
      if (const auto* moe = std::get_if<MoeSpec>(&cell.body))
        all_.push_back({"layers." + std::to_string(i) + ".ffn", moe->top_k});
  const auto layers = static_cast<std::int64_t>(all_.size());
  const std::int64_t width = most_experts(spec);
  // A row of zeros for each rank without a layer: all send as many as there are ranks, in combine().
  const std::int64_t rows = std::max<std::int64_t>(layers, world.size());
  own_ = Tensor::zeros({rows, 2 + width}, DType::f64, device);
  message_ = Tensor::zeros({layers * (2 + width)}, DType::f64, device);
  if (balance.kind == Balance::global) gradient_ = Tensor::zeros({1, width}, DType::f32, device);
  for (Moe* moe : experts_) {
    const auto named =
        std::find_if(all_.begin(), all_.end(), [&](const Named& one) { return one.name == moe->name(); });
    const auto layer = named - all_.begin();
    index_.push_back(static_cast<std::size_t>(layer));
    const std::int64_t numbers = 2 + moe->spec().experts;
    moe->bind_load(own_.narrow(0, layer, 1).view({2 + width}).narrow(0, 0, numbers));
    if (gradient_.defined()) moe->bind_global_balance(gradient_);
  }
}

// In order of rank whichever way: of few ranks each gets what all have; of many, of which that would be more
// than the layers are worth, each adds up one layer.
void ExpertBalance::combine() {
  const std::int64_t ranks = world_.size();
  Device& device = own_.device();
  Tensor parts = own_.view({1, own_.size(0), 2 + width()});
  if (mutant("loads_of_one_rank")) {
    parts = own_.narrow(0, 0, layers()).view({1, layers(), 2 + width()});
  } else if (ranks > 1 && ranks <= layers()) {
    parts = Tensor::empty({ranks, layers(), 2 + width()}, DType::f64, device);
    world_.all_gather(parts, own_);
  } else if (ranks > 1) {
    const Tensor one = Tensor::empty({ranks, 1, 2 + width()}, DType::f64, device);
    world_.all_to_all(one, own_);
    const Tensor sum = Tensor::empty({2 + width()}, DType::f64, device);
    combine_loads_kernel()({one, sum.narrow(0, 0, 1), sum.narrow(0, 1, 1), sum.narrow(0, 2, width())},
                           device);
    parts = Tensor::empty({1, ranks, 2 + width()}, DType::f64, device);
    world_.all_gather(parts, sum);
    parts = parts.view({ranks, 2 + width()}).narrow(0, 0, layers()).view({1, layers(), 2 + width()});
  }
  combine_loads_kernel()({parts, message_.narrow(0, 0, layers()), over(), slots()}, device);
}

// transformers' term couples all layers and the whole batch: E Σ f P, with f the share of tokens that choose
// an expert.
void ExpertBalance::set_gradient() {
  const double tokens = balance_.sequences * static_cast<double>(balance_.seq_len) * balance_.layers;
  global_balance_kernel()({slots().view({layers(), width()}), gradient_,
                           balance_.coefficient * static_cast<double>(width()), tokens},
                          own_.device());
}

void ExpertBalance::move_biases(const Tensor& updated) {
  for (std::size_t i = 0; i < experts_.size(); ++i) {
    Parameter& bias = *experts_[i]->bias();
    const auto begin = static_cast<std::int64_t>(index_[i]) * width();
    move_biases_kernel()({slots().narrow(0, begin, bias.value().numel()), updated, bias.value(),
                          static_cast<float>(balance_.bias_rate)},
                         own_.device());
    bias.changed();
  }
}

std::string ExpertBalance::overflow(std::size_t layer, double rows) const {
  const std::int64_t most = room_.tokens * all_[layer].chosen;
  const double least = std::ceil(rows * room_.ranks / static_cast<double>(most) * 100) / 100;
  return fmt::format(
      "{}: one rank has {:.0f} rows for one rank's experts, and parallel.expert_buffer {} holds {}; nothing "
      "was updated: raise it to at least {}, or to ep {}, which holds any",
      all_[layer].name, rows, room_.buffer.factor, buffer_rows(room_.buffer, most, room_.ranks), least,
      room_.ranks);
}

ExpertLoad ExpertBalance::read(std::span<const double> message) const {
  const std::size_t layers = all_.size();
  const auto width = static_cast<std::ptrdiff_t>(this->width());
  ExpertLoad load;
  auto row = message.begin() + static_cast<std::ptrdiff_t>(2 * layers);
  for (std::size_t layer = 0; layer < layers; ++layer, row += width) {
    load.balance += message[layer];
    load.slots.emplace_back(row, row + width);
    if (const double rows = message[layers + layer]; rows > 0 && load.overflow.empty())
      load.overflow = overflow(layer, rows);
  }
  return load;
}

}  // namespace tessera
