// Loads of experts over all ranks, and what evens them between forward passes.
//
// `experts` are the mixtures of this rank's chunks. Functions that take a world are collective over it; the
// rank's thread only.
#pragma once

#include <span>
#include <vector>

#include "core/nn/moe.h"
#include "parallel/comm/communicator.h"

namespace tessera {

// Slots sent to each expert since the last call, over all ranks, by layer with experts in the model's order:
// [layers][experts]; and the value of the balance term.
struct ExpertLoad {
  std::vector<std::vector<double>> slots;
  double balance = 0;
};
ExpertLoad take_expert_load(const ModelSpec& spec, std::span<Moe* const> experts, ProcessGroup& world);

// transformers' term couples all layers and the whole batch: E Σ f P, with f the share of tokens that choose
// an expert. Hands every mixture the gradient with respect to p, from the load of the coming step.
void set_global_balance(const BalanceSpec& balance, const ExpertLoad& load, std::span<Moe* const> experts,
                        Device& device);

// DeepSeek-V3's bias: an expert with less than the mean load is chosen more from now on, one with more, less.
void move_choice_biases(const ModelSpec& spec, double rate, const ExpertLoad& load,
                        std::span<Moe* const> experts);

}  // namespace tessera
