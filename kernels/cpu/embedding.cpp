#include "core/ops/embedding.h"

#include <cstring>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

void run_forward(const EmbeddingForward& args, Workspace) {
  const std::int64_t hidden = args.weight.size(1);
  const std::size_t bytes = static_cast<std::size_t>(hidden) * bytes_per_element(args.weight.dtype());
  const auto* ids = args.tokens.data<std::int32_t>();
  const auto* weight = static_cast<const std::byte*>(args.weight.raw());
  auto* out = static_cast<std::byte*>(args.out.raw());
  args.out.device().threads().parallel_blocks(
      args.tokens.numel(), 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t row = ids[i] - args.first;
          std::byte* to = out + static_cast<std::size_t>(i) * bytes;
          if (row < 0 || row >= args.weight.size(0))
            std::memset(to, 0, bytes);
          else
            std::memcpy(to, weight + static_cast<std::size_t>(row) * bytes, bytes);
        }
      });
}

// Work is cut by vocabulary rows, so each row's sum runs in the order of the tokens whatever the threads.
void run_backward(const EmbeddingBackward& args, Workspace) {
  constexpr std::int64_t cuts = 16;
  const std::int64_t vocab = args.dweight.size(0);
  const std::int64_t hidden = args.dweight.size(1);
  const auto* ids = args.tokens.data<std::int32_t>();
  cpu::visit(args.dout.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* dout = args.dout.data<T>();
    args.dout.device().threads().parallel_for(cuts, [&](std::int64_t cut) {
      const std::int64_t first = vocab * cut / cuts;
      const std::int64_t last = vocab * (cut + 1) / cuts;
      if (!args.accumulate)
        std::fill_n(args.dweight.data<float>() + first * hidden, (last - first) * hidden, 0.0F);
      for (std::int64_t i = 0; i < args.tokens.numel(); ++i) {
        const std::int64_t id = ids[i] - args.first;
        if (id < first || id >= last) continue;
        float* row = args.dweight.data<float>() + id * hidden;
        for (std::int64_t j = 0; j < hidden; ++j) row[j] += cpu::load(dout[i * hidden + j]);
      }
    });
  });
}

const Register<EmbeddingForward> register_forward(embedding_forward_kernel(),
                                                  {DeviceKind::cpu, "plain", run_forward});
const Register<EmbeddingBackward> register_backward(embedding_backward_kernel(),
                                                    {DeviceKind::cpu, "by_row", run_backward});

}  // namespace
}  // namespace tessera
