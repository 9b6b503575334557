#include "core/ops/dispatch.h"

#include "core/autograd/tape.h"

namespace tessera {
namespace {

Shape with_rows(Shape shape, std::int64_t rows) {
  shape[0] = rows;
  return shape;
}

Tensor gathered(const Tensor& x, const Tensor& index, const Tensor& scale, std::int64_t group) {
  Tensor out = Tensor::empty(with_rows(x.shape(), index.numel()), x.dtype(), x.device());
  gather_rows_kernel()({x.detach(), index, out, scale, group}, x.device());
  return out;
}

Tensor combined(const Tensor& rows, const Tensor& index, const Tensor& scale, std::int64_t tokens) {
  Tensor out = Tensor::empty(with_rows(rows.shape(), tokens), rows.dtype(), rows.device());
  combine_rows_kernel()({rows.detach(), index, scale, out}, rows.device());
  return out;
}

}  // namespace

Kernel<SortSlotsArgs>& sort_slots_kernel() {
  static Kernel<SortSlotsArgs> slot("sort_slots");
  return slot;
}
Kernel<GatherRowsArgs>& gather_rows_kernel() {
  static Kernel<GatherRowsArgs> slot("gather_rows");
  return slot;
}
Kernel<CombineRowsArgs>& combine_rows_kernel() {
  static Kernel<CombineRowsArgs> slot("combine_rows");
  return slot;
}
Kernel<RowDotsArgs>& row_dots_kernel() {
  static Kernel<RowDotsArgs> slot("row_dots");
  return slot;
}

Kernel<CountOffsetsArgs>& count_offsets_kernel() {
  static Kernel<CountOffsetsArgs> slot("count_offsets");
  return slot;
}

SlotOrder sort_slots(const Tensor& indices, std::int64_t experts) {
  const Shape slots{indices.numel()};
  Device& device = indices.device();
  SlotOrder order{Tensor::empty(slots, DType::i32, device), Tensor::empty(slots, DType::i32, device),
                  Tensor::empty({experts}, DType::i32, device)};
  sort_slots_kernel()({indices, order.order, order.inverse, order.counts}, device);
  return order;
}

Tensor spread_rows(const Tensor& x, const SlotOrder& slots) {
  const std::int64_t tokens = x.size(0);
  return record_move("spread_rows", x, gathered(x, slots.order, {}, slots.order.numel() / tokens),
                     [slots, tokens](const Tensor& g) { return combined(g, slots.inverse, {}, tokens); });
}

Tensor combine_rows(const Tensor& rows, const Tensor& gates, const SlotOrder& slots) {
  const Tensor scale = gates.detach().view({gates.numel()});
  Tensor out = combined(rows, slots.inverse, scale, gates.size(0));
  const Tensor inputs[] = {rows, gates};
  if (!needs_record(inputs, false)) return out;
  Tensor* outputs[] = {&out};
  record("combine_rows", inputs, outputs,
         [rows = rows.detach(), scale, slots, k = gates.size(1)](std::span<const Tensor> g,
                                                                 const BackwardContext&) {
           const Tensor dgates = Tensor::empty(scale.shape(), DType::f32, scale.device());
           row_dots_kernel()({rows, slots.inverse, g[0].detach(), dgates}, scale.device());
           return std::vector<Tensor>{gathered(g[0], slots.order, scale, k), dgates};
         });
  return out;
}

Tensor permute_rows(const Tensor& x, const Tensor& index, const Tensor& inverse) {
  return record_move("permute_rows", x, gathered(x, index, {}, 1),
                     [inverse](const Tensor& g) { return gathered(g, inverse, {}, 1); });
}

}  // namespace tessera
