#include "core/tensor/reductions.h"

#include <algorithm>
#include <span>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t grain = 1 << 15;

template <class T>
float tree_at(std::span<const T* const> parts, std::int64_t i) {
  if (parts.size() == 1) return cpu::load(parts[0][i]);
  const auto split = static_cast<std::size_t>(tree_split(static_cast<std::int64_t>(parts.size())));
  return tree_at(parts.first(split), i) + tree_at(parts.subspan(split), i);
}

void run_tree_sum(const TreeSumArgs& args, Workspace) {
  cpu::visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    std::vector<const T*> parts;
    for (const Tensor& part : args.parts) parts.push_back(part.data<T>());
    T* out = args.out.data<T>();
    args.out.device().threads().parallel_blocks(
        args.out.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
          if (parts.size() == 2)
            for (std::int64_t i = begin; i < end; ++i)
              out[i] = T(cpu::load(parts[0][i]) + cpu::load(parts[1][i]));
          else
            for (std::int64_t i = begin; i < end; ++i) out[i] = T(tree_at<T>(parts, i));
        });
  });
}

double squares(const float* x, std::int64_t n) {
  double lane[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) lane[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  for (int j = 0; i < n; ++i, ++j) lane[j] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

void run_square_sums(const SquareSumsArgs& args, Workspace) {
  const float* x = args.x.data<float>();
  auto* out = args.out.data<double>();
  args.x.device().threads().parallel_for(args.out.numel(), [&](std::int64_t i) {
    const std::int64_t begin = i * args.block;
    out[i] = squares(x + begin, std::min(args.block, args.x.numel() - begin));
  });
}

void run_sum_runs(const SumRunsArgs& args, Workspace) {
  const auto* x = args.x.data<double>();
  const std::int32_t* order = args.order.defined() ? args.order.data<std::int32_t>() : nullptr;
  const std::int64_t count = order != nullptr ? args.order.numel() : args.x.numel();
  auto* out = args.out.data<double>();
  for (std::int64_t r = 0; r < args.out.numel(); ++r) {
    double sum = 0;
    for (std::int64_t i = r * args.run; i < std::min(count, (r + 1) * args.run); ++i)
      sum += x[order != nullptr ? order[i] : i];
    out[r] = sum;
  }
}

const Register<TreeSumArgs> register_tree_sum(tree_sum_kernel(), {DeviceKind::cpu, "plain", run_tree_sum});
const Register<SquareSumsArgs> register_square_sums(square_sums_kernel(),
                                                    {DeviceKind::cpu, "plain", run_square_sums});
const Register<SumRunsArgs> register_sum_runs(sum_runs_kernel(), {DeviceKind::cpu, "plain", run_sum_runs});

}  // namespace
}  // namespace tessera
