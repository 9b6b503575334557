#include "core/ops/linear_cross_entropy.h"
#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

constexpr int row_threads = 512;

// A block a row, which it reads once: each thread keeps its largest logit and the sum of exp relative to it.
// 4 V bytes a row.
template <int width>
__global__ void forward(const float* logits, const std::int32_t* targets, float* lse, float* loss,
                        std::int64_t vocab) {
  SharedArena shared;
  const Shared<float> of_top = shared.array<float>(warp_size);
  const Shared<float> of_total = shared.array<float>(warp_size);
  const std::int64_t row = block_index();
  const float* from = logits + row * vocab;
  float top = -INFINITY;
  float total = 0;
  for (std::int64_t i = thread_index() * width; i < vocab; i += thread_count() * width) {
    const Vector<float, width> v = load_vector<width>(from + i);
    float highest = v.at[0];
    for (int j = 1; j < width; ++j) highest = std::fmax(highest, v.at[j]);
    if (highest > top) {
      total *= std::exp(top - highest);
      top = highest;
    }
    for (int j = 0; j < width; ++j) total += std::exp(v.at[j] - top);
  }
  const float highest = block_max(top, of_top);
  total = block_sum(top == -INFINITY ? 0.0F : total * std::exp(top - highest), of_total);
  if (thread_index() != 0) return;
  const float result = highest + std::log(total);
  const std::int32_t target = targets[row];
  lse[row] = result;
  loss[row] = target < 0 ? 0.0F : result - from[target];
}

// Reads the logits, writes as many gradients, which may take their place: each thread reads what it writes
// first.
template <class T, int width>
__global__ void backward(const float* logits, const std::int32_t* targets, const float* lse,
                         const float* factor, const double* upstream, T* out, std::int64_t vocab) {
  const std::int64_t row = block_index();
  const std::int32_t target = targets[row];
  const float scale = static_cast<float>(static_cast<double>(*factor) * *upstream);
  const float of_row = lse[row];
  for (std::int64_t i = thread_index() * width; i < vocab; i += thread_count() * width) {
    const Vector<float, width> v = load_vector<width>(logits + row * vocab + i);
    Vector<T, width> gradient;
    for (int j = 0; j < width; ++j) {
      const float p = std::exp(v.at[j] - of_row);
      gradient.at[j] = T(target == -1 ? 0.0F : (i + j == target ? p - 1.0F : p) * scale);
    }
    store_vector(out + row * vocab + i, gradient);
  }
}

// One block: a few thousand numbers, in double.
__global__ void sum_loss(const float* loss, const float* factor, double* out, std::int64_t n) {
  SharedArena shared;
  const Shared<double> scratch = shared.array<double>(warp_size);
  double total = 0;
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) total += static_cast<double>(loss[i]);
  total = block_sum(total, scratch);
  if (thread_index() == 0) *out = total * static_cast<double>(*factor);
}

__global__ void shard_targets(const std::int32_t* targets, std::int32_t* out, std::int64_t n,
                              std::int64_t first, std::int64_t rows) {
  const std::int64_t i = grid_index();
  if (i >= n) return;
  const std::int64_t target = targets[i];
  const std::int64_t local = target - first;
  out[i] = static_cast<std::int32_t>(target < 0 ? target : local >= 0 && local < rows ? local : -2);
}

__global__ void combine_lse(const float* parts, const std::int32_t* targets, float* lse, float* loss,
                            std::int64_t shards, std::int64_t n, std::int64_t index) {
  const std::int64_t i = grid_index();
  if (i >= n) return;
  float top = parts[i];
  for (std::int64_t s = 1; s < shards; ++s) top = std::fmax(top, parts[s * n + i]);
  float total = 0;
  for (std::int64_t s = 0; s < shards; ++s) total += std::exp(parts[s * n + i] - top);
  const float all = top + std::log(total);
  lse[i] = all;
  if (targets[i] >= 0) loss[i] += all - parts[index * n + i];
}

void run_forward(const CrossEntropyForward& args, Workspace) {
  const std::int64_t vocab = args.logits.size(1);
  const auto* logits = args.logits.data<float>();
  visit_width<float>(vocab % 4 == 0 && aligned(logits), [&](auto width) {
    launch(args.logits.device().stream(), forward<width()>,
           Grid{args.logits.size(0), row_threads, 2 * shared_size<float>(warp_size)}, logits,
           args.targets.data<std::int32_t>(), args.lse.data<float>(), args.loss.data<float>(), vocab);
  });
}

void run_backward(const CrossEntropyBackward& args, Workspace) {
  const std::int64_t vocab = args.logits.size(1);
  const auto* logits = args.logits.data<float>();
  const bool wide = vocab % 4 == 0 && aligned(logits) && aligned(args.dlogits.raw());
  visit(args.dlogits.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit_width<float>(wide, [&](auto width) {
      launch(args.logits.device().stream(), backward<T, width()>, Grid{args.logits.size(0), row_threads},
             logits, args.targets.data<std::int32_t>(), args.lse.data<float>(), args.factor.data<float>(),
             args.upstream.data<double>(), args.dlogits.data<T>(), vocab);
    });
  });
}

void run_sum_loss(const SumLossArgs& args, Workspace) {
  launch(args.out.device().stream(), sum_loss, Grid{1, 1024, shared_size<double>(warp_size)},
         args.loss.data<float>(), args.factor.data<float>(), args.out.data<double>(), args.loss.numel());
}

void run_shard_targets(const ShardTargetsArgs& args, Workspace) {
  launch(args.out.device().stream(), shard_targets, blocks_for(args.targets.numel()),
         args.targets.data<std::int32_t>(), args.out.data<std::int32_t>(), args.targets.numel(), args.first,
         args.rows);
}

void run_combine_lse(const CombineLseArgs& args, Workspace) {
  const std::int64_t n = args.parts.size(1);
  launch(args.lse.device().stream(), combine_lse, blocks_for(n), args.parts.data<float>(),
         args.targets.data<std::int32_t>(), args.lse.data<float>(), args.loss.data<float>(),
         args.parts.size(0), n, args.index);
}

const Register<CrossEntropyForward> register_forward(cross_entropy_forward_kernel(),
                                                     {DeviceKind::cuda, "online", run_forward});
const Register<CrossEntropyBackward> register_backward(cross_entropy_backward_kernel(),
                                                       {DeviceKind::cuda, "rows", run_backward});
const Register<SumLossArgs> register_sum_loss(sum_loss_kernel(), {DeviceKind::cuda, "block", run_sum_loss});
const Register<ShardTargetsArgs> register_shard_targets(shard_targets_kernel(),
                                                        {DeviceKind::cuda, "plain", run_shard_targets});
const Register<CombineLseArgs> register_combine_lse(combine_lse_kernel(),
                                                    {DeviceKind::cuda, "plain", run_combine_lse});

}  // namespace
}  // namespace tessera::cuda
