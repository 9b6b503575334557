#include "parallel/redistribute.h"

#include "core/autograd/tape.h"
#include "core/base/mutant.h"
#include "core/tensor/elementwise.h"

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
    if (mutant("gather_in_wrong_order")) {
      const std::vector<Tensor> parts = {all.narrow(0, 0, x.size(0)), all.narrow(0, x.size(0), x.size(0))};
      const Tensor first = contiguous_copy(parts[0]);
      copy_view(parts[1], parts[0]);
      copy_view(first, parts[1]);
    }
    return all;
  }
  assert(from == Placement::partial);
  if (to == Placement::shard) {
    assert(x.size(0) % ranks == 0);
    Tensor mine = Tensor::empty(with_tokens(x.shape(), x.size(0) / ranks), x.dtype(), x.device());
    if (mutant("sum_forgotten"))
      mine.copy_from(x.narrow(0, group.rank() * mine.size(0), mine.size(0)));
    else
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
  return record_move("redistribute", x, move(x.detach(), from, to, group),
                     [from, to, &group](const Tensor& g) { return move(g, dual(to), dual(from), group); });
}

}  // namespace tessera
