#include "core/ops/rope.h"

#include "core/autograd/tape.h"
#include "core/ops/rows.h"

namespace tessera {

Kernel<RopeArgs>& rope_kernel() {
  static Kernel<RopeArgs> slot("rope");
  return slot;
}

Tensor rope(const Tensor& x, const Tensor& table, const Tensor& positions) {
  assert(x.rank() == 4 && positions.numel() == x.size(0) * x.size(1) && table.size(1) <= x.size(3));
  const Tensor at = positions.view({positions.numel()});
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  rope_kernel()({as_rows(x), table, at, as_rows(y), false}, x.device());
  if (!needs_record(std::span(&x, 1), false)) return y;
  Tensor* outputs[] = {&y};
  record("rope", std::span(&x, 1), outputs, [table, at](std::span<const Tensor> g, const BackwardContext&) {
    const Tensor dx = Tensor::empty(g[0].shape(), g[0].dtype(), g[0].device());
    rope_kernel()({as_rows(g[0]), table, at, as_rows(dx), true}, dx.device());
    return std::vector<Tensor>{dx};
  });
  return y;
}

}  // namespace tessera
