// A few numbers for each expert: a thread has one of them.
#include "core/ops/expert_load.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

// Reads 8 bytes for each rank, layer and column.
__global__ void combine(const double* parts, double* balance, double* over, double* slots, std::int64_t ranks,
                        std::int64_t layers, std::int64_t width) {
  const std::int64_t i = grid_index();
  if (i >= layers * width) return;
  double sum = 0;
  double most = 0;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const double part = parts[r * layers * width + i];
    sum += part;
    most = part > most ? part : most;
  }
  const std::int64_t layer = i / width;
  const std::int64_t column = i % width;
  if (column == 0)
    balance[layer] = sum;
  else if (column == 1)
    over[layer] = most;
  else
    slots[layer * (width - 2) + column - 2] = sum;
}

__global__ void balance_gradient(const double* slots, float* out, double factor, double tokens,
                                 std::int64_t layers, std::int64_t experts) {
  const std::int64_t e = grid_index();
  if (e >= experts) return;
  double total = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) total += slots[layer * experts + e];
  out[e] = static_cast<float>(factor * total / tokens / tokens);
}

// One block.
__global__ void move(const double* slots, const double* updated, float* bias, float rate,
                     std::int64_t experts) {
  SharedArena arena;
  const Shared<double> scratch = arena.array<double>(warp_size);
  double total = 0;
  for (std::int64_t e = thread_index(); e < experts; e += thread_count()) total += slots[e];
  const double mean = block_sum(total, scratch) / static_cast<double>(experts);
  if (updated[0] == 0) return;
  for (std::int64_t e = thread_index(); e < experts; e += thread_count())
    if (slots[e] != mean) bias[e] += slots[e] < mean ? rate : -rate;
}

void run_combine_loads(const CombineLoadsArgs& args, Workspace) {
  const std::int64_t layers = args.parts.size(1);
  const std::int64_t width = args.parts.size(2);
  launch(args.parts.device().stream(), combine, blocks_for(layers * width), args.parts.data<double>(),
         args.balance.data<double>(), args.over.data<double>(), args.slots.data<double>(), args.parts.size(0),
         layers, width);
}

void run_global_balance(const GlobalBalanceArgs& args, Workspace) {
  const std::int64_t experts = args.out.numel();
  launch(args.out.device().stream(), balance_gradient, blocks_for(experts), args.slots.data<double>(),
         args.out.data<float>(), args.factor, args.tokens, args.slots.size(0), experts);
}

void run_move_biases(const MoveBiasesArgs& args, Workspace) {
  launch(args.bias.device().stream(), move, Grid{1, 256, shared_size<double>(warp_size)},
         args.slots.data<double>(), args.updated.data<double>(), args.bias.data<float>(), args.rate,
         args.bias.numel());
}

const Register<CombineLoadsArgs> register_combine(combine_loads_kernel(),
                                                  {DeviceKind::cuda, "plain", run_combine_loads});
const Register<GlobalBalanceArgs> register_balance(global_balance_kernel(),
                                                   {DeviceKind::cuda, "plain", run_global_balance});
const Register<MoveBiasesArgs> register_move(move_biases_kernel(),
                                             {DeviceKind::cuda, "block", run_move_biases});

}  // namespace
}  // namespace tessera::cuda
