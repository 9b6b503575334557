// Tensors for the cases of `tessera bench`.
#pragma once

#include <initializer_list>
#include <string>

#include "core/tensor/kernel.h"
#include "launch/bench/cases.h"

namespace tessera::bench {

// Normal numbers, f32 or bf16; a stretch of them repeats.
Tensor normal(const Shape& shape, DType dtype, Device& device);
// All elements the same; f32 or f64.
Tensor constant(double value, const Shape& shape, DType dtype, Device& device);
// I32 ids below `count`, the lower the more frequent, as words are in a text.
Tensor skewed_ids(std::int64_t n, std::int64_t count, Device& device);
// I32: 0, 1, … period − 1, 0, 1, …
Tensor counting_ids(std::int64_t n, std::int64_t period, Device& device);

double bytes_of(std::initializer_list<Tensor> tensors);
std::string text(const Tensor& x);  // "16384 x 2048 BF16"

// The slot run on `args`, shown by the shape of `x`.
template <class Args>
Case memory_case(const Kernel<Args>& slot, Args args, const Tensor& x, double bytes) {
  return {slot.name(), text(x), bytes, 0,
          [&slot, args = std::move(args), device = &x.device()] { slot(args, *device); }};
}

}  // namespace tessera::bench
