#include "core/tensor/elementwise.h"

#include <cstring>

#include "core/ops/split.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t grain = 1 << 15;

void run_add(const AddArgs& args, Workspace) {
  cpu::visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* a = args.a.data<T>();
    const T* b = args.b.data<T>();
    T* out = args.out.data<T>();
    args.out.device().threads().parallel_blocks(args.out.numel(), grain,
                                                [&](std::int64_t begin, std::int64_t end) {
                                                  for (std::int64_t i = begin; i < end; ++i)
                                                    out[i] = T(cpu::load(a[i]) + cpu::load(b[i]));
                                                });
  });
}

void run_convert(const ConvertArgs& args, Workspace) {
  cpu::visit(args.from.dtype(), [&](auto from_tag) {
    cpu::visit(args.to.dtype(), [&](auto to_tag) {
      using To = decltype(to_tag);
      const auto* from = args.from.data<decltype(from_tag)>();
      To* to = args.to.data<To>();
      args.to.device().threads().parallel_blocks(args.to.numel(), grain,
                                                 [&](std::int64_t begin, std::int64_t end) {
                                                   for (std::int64_t i = begin; i < end; ++i)
                                                     to[i] = To(cpu::load(from[i]));
                                                 });
    });
  });
}

void run_scale(const ScaleArgs& args, Workspace) {
  auto* x = args.x.data<float>();
  const float factor = *args.factor.data<float>();
  args.x.device().threads().parallel_blocks(args.x.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) x[i] *= factor;
  });
}

// The row of `x` with this index among its leading dimensions.
std::byte* row_of(const Tensor& x, std::int64_t index) {
  std::int64_t offset = 0;
  for (int d = x.rank() - 2; d >= 0; --d) {
    offset += index % x.size(d) * x.stride(d);
    index /= x.size(d);
  }
  return static_cast<std::byte*>(x.raw()) + offset * static_cast<std::int64_t>(bytes_per_element(x.dtype()));
}

void run_strided_copy(const StridedCopyArgs& args, Workspace) {
  if (args.to.numel() == 0) return;
  const std::int64_t width = args.to.size(-1);
  const std::size_t bytes = static_cast<std::size_t>(width) * bytes_per_element(args.to.dtype());
  const auto for_rows = [&](auto row_function) {
    args.to.device().threads().parallel_blocks(args.to.numel() / width, 64,
                                               [&](std::int64_t begin, std::int64_t end) {
                                                 for (std::int64_t row = begin; row < end; ++row)
                                                   row_function(row_of(args.from, row), row_of(args.to, row));
                                               });
  };
  if (!args.accumulate) {
    for_rows([&](const std::byte* from, std::byte* to) { std::memcpy(to, from, bytes); });
    return;
  }
  cpu::visit(args.to.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_rows([&](const std::byte* from, std::byte* to) {
      const auto* x = reinterpret_cast<const T*>(from);
      auto* y = reinterpret_cast<T*>(to);
      for (std::int64_t i = 0; i < width; ++i) y[i] = T(cpu::load(y[i]) + cpu::load(x[i]));
    });
  });
}

void run_concatenate(const ConcatenateArgs& args, Workspace) {
  const auto element = bytes_per_element(args.out.dtype());
  const std::size_t width = static_cast<std::size_t>(args.out.size(-1)) * element;
  const std::int64_t rows = args.out.numel() / args.out.size(-1);
  args.out.device().threads().parallel_blocks(rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      auto* out = static_cast<std::byte*>(args.out.raw()) + static_cast<std::size_t>(row) * width;
      for (std::size_t i = 0; i < args.parts.size(); ++i) {
        const std::size_t bytes = static_cast<std::size_t>(args.sizes[i]) * element;
        if (args.parts[i].defined())
          std::memcpy(
              out, static_cast<const std::byte*>(args.parts[i].raw()) + static_cast<std::size_t>(row) * bytes,
              bytes);
        else
          std::memset(out, 0, bytes);
        out += bytes;
      }
    }
  });
}

const Register<AddArgs> register_add(add_kernel(), {DeviceKind::cpu, "plain", run_add});
const Register<ConvertArgs> register_convert(convert_kernel(), {DeviceKind::cpu, "plain", run_convert});
const Register<ScaleArgs> register_scale(scale_kernel(), {DeviceKind::cpu, "plain", run_scale});
const Register<StridedCopyArgs> register_strided_copy(strided_copy_kernel(),
                                                      {DeviceKind::cpu, "plain", run_strided_copy});
const Register<ConcatenateArgs> register_concatenate(concatenate_kernel(),
                                                     {DeviceKind::cpu, "plain", run_concatenate});

}  // namespace
}  // namespace tessera
