#include "parallel/redistribute.h"

#include "core/autograd/tape.h"
#include "core/base/mutant.h"

namespace tessera {
namespace {

Placement dual(Placement placement) {
  switch (placement) {
    case Placement::replicate:
      return Placement::partial;
    case Placement::partial:
      return Placement::replicate;
    case Placement::shard:
      return Placement::shard;
  }
  return placement;
}

Shape with_tokens(Shape shape, std::int64_t tokens) {
  shape[0] = tokens;
  return shape;
}

Tensor move(const Tensor& x, Placement from, Placement to, ProcessGroup& group) {
  const std::int64_t ranks = group.size();
  if (from == Placement::shard && to == Placement::replicate) {
    Tensor all = Tensor::empty(with_tokens(x.shape(), x.size(0) * ranks), x.dtype(), x.device());
    group.all_gather(all, x);
    return all;
  }
  assert(from == Placement::partial);
  if (to == Placement::shard) {
    assert(x.size(0) % ranks == 0);
    Tensor mine = Tensor::empty(with_tokens(x.shape(), x.size(0) / ranks), x.dtype(), x.device());
    group.reduce_scatter(mine, x);
    return mine;
  }
  assert(to == Placement::replicate);
  Tensor sum = Tensor::empty(x.shape(), x.dtype(), x.device());
  sum.copy_from(x);
  group.all_reduce(sum);
  return sum;
}

}  // namespace

Tensor redistribute(const Tensor& x, Placement from, Placement to, ProcessGroup& group) {
  Tensor y = move(x.detach(), from, to, group);
  if (!needs_record(std::span(&x, 1), false)) return y;
  Tensor* outputs[] = {&y};
  record("redistribute", std::span(&x, 1), outputs,
         [from, to, &group](std::span<const Tensor> g, const BackwardContext&) {
           return std::vector<Tensor>{move(g[0].detach(), dual(to), dual(from), group)};
         });
  return y;
}

}  // namespace tessera
