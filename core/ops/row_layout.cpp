#include "core/ops/row_layout.h"

namespace tessera {

Kernel<LayOutRowsArgs>& lay_out_rows_kernel() {
  static Kernel<LayOutRowsArgs> slot("lay_out_rows");
  return slot;
}

RowLayout lay_out_rows(const Tensor& counts, std::int64_t capacity, const Tensor& over) {
  assert(counts.rank() == 3 && counts.dtype() == DType::i32 && over.dtype() == DType::f64);
  Device& device = counts.device();
  const Shape slots{counts.size(0) * capacity};
  RowLayout layout{Tensor::empty({counts.size(1) + 1}, DType::i32, device),
                   Tensor::empty(slots, DType::i32, device), Tensor::empty(slots, DType::i32, device)};
  lay_out_rows_kernel()({counts, layout.offsets, layout.to_slot, layout.from_slot, over}, device);
  return layout;
}

}  // namespace tessera
