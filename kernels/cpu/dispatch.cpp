#include "core/ops/dispatch.h"

#include <vector>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t grain = 16;  // rows

void run_sort_slots(const SortSlotsArgs& args, Workspace) {
  const std::int64_t experts = args.counts.numel();
  const std::int64_t slots = args.indices.numel();
  const auto* indices = args.indices.data<std::int32_t>();
  auto* counts = args.counts.data<std::int32_t>();
  std::fill_n(counts, experts, 0);
  for (std::int64_t s = 0; s < slots; ++s) ++counts[indices[s]];
  std::vector<std::int32_t> next(static_cast<std::size_t>(experts));
  for (std::size_t e = 1; e < next.size(); ++e) next[e] = next[e - 1] + counts[e - 1];
  for (std::int64_t s = 0; s < slots; ++s) {
    const std::int32_t place = next[static_cast<std::size_t>(indices[s])]++;
    args.order.data<std::int32_t>()[place] = static_cast<std::int32_t>(s);
    args.inverse.data<std::int32_t>()[s] = place;
  }
}

void run_count_offsets(const CountOffsetsArgs& args, Workspace) {
  auto* offsets = args.offsets.data<std::int32_t>();
  offsets[0] = 0;
  for (std::int64_t i = 0; i < args.counts.numel(); ++i)
    offsets[i + 1] = offsets[i] + args.counts.data<std::int32_t>()[i];
}

void run_gather_rows(const GatherRowsArgs& args, Workspace) {
  const std::int64_t n = args.out.size(1);
  const auto* index = args.index.data<std::int32_t>();
  const float* scale = args.scale.defined() ? args.scale.data<float>() : nullptr;
  cpu::visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.out.device().threads().parallel_blocks(
        args.index.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const T* in = args.in.data<T>() + index[i] / args.group * n;
            T* out = args.out.data<T>() + i * n;
            if (index[i] < 0)
              std::fill_n(out, n, T(0.0F));
            else if (scale == nullptr)
              std::copy_n(in, n, out);
            else
              for (std::int64_t j = 0; j < n; ++j) out[j] = T(cpu::load(in[j]) * scale[index[i]]);
          }
        });
  });
}

void run_combine_rows(const CombineRowsArgs& args, Workspace) {
  const std::int64_t tokens = args.out.size(0);
  const std::int64_t n = args.out.size(1);
  const std::int64_t k = args.index.numel() / tokens;
  const auto* index = args.index.data<std::int32_t>();
  const float* scale = args.scale.defined() ? args.scale.data<float>() : nullptr;
  cpu::visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.out.device().threads().parallel_blocks(tokens, grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> sum(static_cast<std::size_t>(n));
      for (std::int64_t t = begin; t < end; ++t) {
        std::fill(sum.begin(), sum.end(), 0.0F);
        for (std::int64_t s = t * k; s < (t + 1) * k; ++s) {
          const T* row = args.rows.data<T>() + index[s] * n;
          const float factor = scale == nullptr ? 1.0F : scale[s];
          for (std::int64_t j = 0; j < n; ++j) sum[static_cast<std::size_t>(j)] += factor * cpu::load(row[j]);
        }
        T* out = args.out.data<T>() + t * n;
        for (std::int64_t j = 0; j < n; ++j) out[j] = T(sum[static_cast<std::size_t>(j)]);
      }
    });
  });
}

void run_row_dots(const RowDotsArgs& args, Workspace) {
  const std::int64_t n = args.with.size(1);
  const std::int64_t k = args.index.numel() / std::max<std::int64_t>(1, args.with.size(0));
  const auto* index = args.index.data<std::int32_t>();
  cpu::visit(args.with.dtype(), [&](auto tag) {
    using T = decltype(tag);
    args.out.device().threads().parallel_blocks(
        args.index.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t s = begin; s < end; ++s) {
            const T* row = args.rows.data<T>() + index[s] * n;
            const T* with = args.with.data<T>() + s / k * n;
            args.out.data<float>()[s] =
                cpu::sum(n, [&](std::int64_t j) { return cpu::load(row[j]) * cpu::load(with[j]); });
          }
        });
  });
}

const Register<SortSlotsArgs> register_sort(sort_slots_kernel(),
                                            {DeviceKind::cpu, "counting", run_sort_slots});
const Register<CountOffsetsArgs> register_offsets(count_offsets_kernel(),
                                                  {DeviceKind::cpu, "plain", run_count_offsets});
const Register<GatherRowsArgs> register_gather(gather_rows_kernel(),
                                               {DeviceKind::cpu, "plain", run_gather_rows});
const Register<CombineRowsArgs> register_combine(combine_rows_kernel(),
                                                 {DeviceKind::cpu, "plain", run_combine_rows});
const Register<RowDotsArgs> register_dots(row_dots_kernel(), {DeviceKind::cpu, "plain", run_row_dots});

}  // namespace
}  // namespace tessera
