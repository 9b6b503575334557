#include "core/tensor/elementwise.h"

namespace tessera {

Kernel<AddArgs>& add_kernel() {
  static Kernel<AddArgs> slot("add");
  return slot;
}
Kernel<ConvertArgs>& convert_kernel() {
  static Kernel<ConvertArgs> slot("convert");
  return slot;
}
Kernel<ScaleArgs>& scale_kernel() {
  static Kernel<ScaleArgs> slot("scale");
  return slot;
}

Kernel<StridedCopyArgs>& strided_copy_kernel() {
  static Kernel<StridedCopyArgs> slot("strided_copy");
  return slot;
}

void copy_view(const Tensor& from, const Tensor& to) {
  assert(from.shape() == to.shape() && from.dtype() == to.dtype());
  strided_copy_kernel()({from, to, false}, to.device());
}

void add_view(const Tensor& from, const Tensor& to) {
  assert(from.shape() == to.shape() && from.dtype() == to.dtype());
  strided_copy_kernel()({from, to, true}, to.device());
}

Tensor contiguous_copy(const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  copy_view(x, out);
  return out;
}

Tensor add_values(const Tensor& a, const Tensor& b) {
  assert(a.shape() == b.shape() && a.dtype() == b.dtype() && a.is_contiguous() && b.is_contiguous());
  Tensor out = Tensor::empty(a.shape(), a.dtype(), a.device());
  add_kernel()({a, b, out}, a.device());
  return out;
}

void add_into(const Tensor& into, const Tensor& from) {
  assert(into.shape() == from.shape() && into.is_contiguous() && from.is_contiguous());
  add_kernel()({into, from, into}, into.device());
}

void convert(const Tensor& from, const Tensor& to) {
  assert(from.shape() == to.shape() && from.is_contiguous() && to.is_contiguous());
  convert_kernel()({from, to}, from.device());
}

void scale(const Tensor& x, const Tensor& factor) {
  assert(x.is_contiguous() && factor.numel() == 1);
  scale_kernel()({x, factor}, x.device());
}

}  // namespace tessera
