// Elementwise sums, conversions and scaling of tensors, never recorded: what the tape and parameters are made
// with. Tensors are
// contiguous unless said otherwise.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct AddArgs {
  Tensor a, b, out;  // one shape, one of f32 or bf16; bf16 adds in fp32 and rounds once
};
Kernel<AddArgs>& add_kernel();

struct ConvertArgs {
  Tensor from, to;  // one shape; f32 or bf16 each
};
Kernel<ConvertArgs>& convert_kernel();

struct ScaleArgs {
  Tensor x;       // f32, any shape
  Tensor factor;  // f32 scalar
};
Kernel<ScaleArgs>& scale_kernel();

struct StridedCopyArgs {
  Tensor from, to;  // one shape of rank up to 4 and one dtype; last dimensions contiguous, others any stride
  bool accumulate = false;  // to += from; f32 or bf16
};
Kernel<StridedCopyArgs>& strided_copy_kernel();

// a + b. Same shape and dtype.
Tensor add_values(const Tensor& a, const Tensor& b);
// into += from, fp32.
void add_into(const Tensor& into, const Tensor& from);
// Copies with a change of dtype, to nearest even, or without.
void convert(const Tensor& from, const Tensor& to);
// Copies, or adds, between views.
void copy_view(const Tensor& from, const Tensor& to);
void add_view(const Tensor& from, const Tensor& to);
// The elements in order, in new memory.
Tensor contiguous_copy(const Tensor& x);
// x *= factor.
void scale(const Tensor& x, const Tensor& factor);

}  // namespace tessera
