#include "core/ops/expert_load.h"

#include <algorithm>
#include <numeric>

namespace tessera {
namespace {

void run_combine_loads(const CombineLoadsArgs& args, Workspace) {
  const std::int64_t ranks = args.parts.size(0);
  const std::int64_t layers = args.parts.size(1);
  const std::int64_t width = args.parts.size(2);
  const auto* parts = args.parts.data<double>();
  for (std::int64_t i = 0; i < layers * width; ++i) {
    double sum = 0;
    double most = 0;
    for (std::int64_t r = 0; r < ranks; ++r) {
      sum += parts[r * layers * width + i];
      most = std::max(most, parts[r * layers * width + i]);
    }
    const std::int64_t layer = i / width;
    const std::int64_t column = i % width;
    if (column == 0)
      args.balance.data<double>()[layer] = sum;
    else if (column == 1)
      args.over.data<double>()[layer] = most;
    else
      args.slots.data<double>()[layer * (width - 2) + column - 2] = sum;
  }
}

void run_global_balance(const GlobalBalanceArgs& args, Workspace) {
  const std::int64_t experts = args.out.numel();
  for (std::int64_t e = 0; e < experts; ++e) {
    double slots = 0;
    for (std::int64_t layer = 0; layer < args.slots.size(0); ++layer)
      slots += args.slots.data<double>()[layer * experts + e];
    args.out.data<float>()[e] = static_cast<float>(args.factor * slots / args.tokens / args.tokens);
  }
}

void run_move_biases(const MoveBiasesArgs& args, Workspace) {
  if (*args.updated.data<double>() == 0) return;
  const std::int64_t experts = args.bias.numel();
  const auto* slots = args.slots.data<double>();
  const double mean = std::accumulate(slots, slots + experts, 0.0) / static_cast<double>(experts);
  for (std::int64_t e = 0; e < experts; ++e)
    if (slots[e] != mean) args.bias.data<float>()[e] += slots[e] < mean ? args.rate : -args.rate;
}

const Register<CombineLoadsArgs> register_combine(combine_loads_kernel(),
                                                  {DeviceKind::cpu, "plain", run_combine_loads});
const Register<GlobalBalanceArgs> register_balance(global_balance_kernel(),
                                                   {DeviceKind::cpu, "plain", run_global_balance});
const Register<MoveBiasesArgs> register_move(move_biases_kernel(),
                                             {DeviceKind::cpu, "plain", run_move_biases});

}  // namespace
}  // namespace tessera
