#include "parallel/expert_balance.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/tensor/device.h"

namespace tessera {
namespace {

// Layers with experts by the name of their FFN, numbered in the model's order.
std::map<std::string, std::size_t> expert_layers(const ModelSpec& spec) {
  std::map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    for (const CellSpec& cell : spec.layers[i])
      if (std::holds_alternative<MoeSpec>(cell.body))
        index.emplace("layers." + std::to_string(i) + ".ffn", index.size());
  return index;
}

std::size_t most_experts(const ModelSpec& spec) {
  std::int64_t most = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* moe = std::get_if<MoeSpec>(&cell.body)) most = std::max(most, moe->experts);
  return static_cast<std::size_t>(most);
}

}  // namespace

// Counts are whole numbers, so their sums have no rounding, whichever stage holds a layer.
ExpertLoad take_expert_load(const ModelSpec& spec, std::span<Moe* const> experts, ProcessGroup& world) {
  const auto index = expert_layers(spec);
  const std::size_t width = most_experts(spec);
  std::vector<double> mine(index.size() * width + 1);
  for (Moe* moe : experts) {
    const Tensor taken = moe->take_load();
    std::vector<float> host(static_cast<std::size_t>(taken.numel()));
    taken.to_host(host.data());
    std::copy(host.begin(), host.end(),
              mine.begin() + static_cast<std::ptrdiff_t>(index.at(moe->name()) * width));
    mine.back() += moe->take_balance();
  }
  const auto ranks = static_cast<std::size_t>(world.size());
  const std::vector<std::int64_t> counts(ranks, static_cast<std::int64_t>(mine.size()));
  const std::vector<double> all = world.all_gather(mine, counts);
  ExpertLoad load{std::vector(index.size(), std::vector<double>(width)), 0};
  for (std::size_t r = 0; r < ranks; ++r) {
    for (std::size_t i = 0; i < index.size() * width; ++i)
      load.slots[i / width][i % width] += all[r * mine.size() + i];
    load.balance += all[(r + 1) * mine.size() - 1];
  }
  return load;
}

void set_global_balance(const BalanceSpec& balance, const ExpertLoad& load, std::span<Moe* const> experts,
                        Device& device) {
  const double tokens = balance.sequences * static_cast<double>(balance.seq_len) * balance.layers;
  std::vector<float> gradient(load.slots.at(0).size());
  for (std::size_t e = 0; e < gradient.size(); ++e) {
    double slots = 0;
    for (const auto& layer : load.slots) slots += layer[e];
    gradient[e] = static_cast<float>(balance.coefficient * static_cast<double>(gradient.size()) * slots /
                                     tokens / tokens);
  }
  const Tensor shared =
      Tensor::from_host(gradient.data(), {1, static_cast<std::int64_t>(gradient.size())}, DType::f32, device);
  for (Moe* moe : experts) moe->set_global_balance(shared);
}

void move_choice_biases(const ModelSpec& spec, double rate, const ExpertLoad& load,
                        std::span<Moe* const> experts) {
  const auto index = expert_layers(spec);
  for (Moe* moe : experts) {
    const std::vector<double>& slots = load.slots.at(index.at(moe->name()));
    const double mean = std::accumulate(slots.begin(), slots.end(), 0.0) / static_cast<double>(slots.size());
    const Tensor& value = moe->bias()->value();
    std::vector<float> bias(slots.size());
    value.to_host(bias.data());
    for (std::size_t e = 0; e < bias.size(); ++e)
      if (slots[e] != mean) bias[e] += static_cast<float>(slots[e] < mean ? rate : -rate);
    value.device().copy(value.raw(), bias.data(), value.bytes());
    moe->bias()->changed();
  }
}

}  // namespace tessera
