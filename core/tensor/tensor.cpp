#include "core/tensor/tensor.h"

#include "core/tensor/device.h"

namespace tessera {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

}  // namespace

std::string Shape::text() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i == 0 ? "" : ", ") + std::to_string((*this)[i]);
  return text + "]";
}

Storage::Storage(Device& device, std::size_t bytes)
    : device_(device), bytes_(bytes), use_(device.use()), address_(device.allocate(bytes, use_)) {}
Storage::~Storage() {
  device_.release(address_, bytes_, use_);
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device& device) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  tensor.dtype_ = dtype;
  tensor.storage_ = std::make_shared<Storage>(device, tensor.bytes());
  return tensor;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device& device) {
  Tensor tensor = empty(shape, dtype, device);
  tensor.zero();
  return tensor;
}

Tensor Tensor::from_host(const void* data, const Shape& shape, DType dtype, Device& device) {
  Tensor tensor = empty(shape, dtype, device);
  device.copy(tensor.raw(), data, tensor.bytes());
  return tensor;
}

bool Tensor::is_contiguous() const {
  std::int64_t stride = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != stride) return false;
    stride *= shape_[i];
  }
  return true;
}

void* Tensor::raw() const {
  auto* base = static_cast<std::byte*>(storage_->address());
  return base == nullptr ? nullptr : base + offset_ * static_cast<std::int64_t>(bytes_per_element(dtype_));
}

Tensor Tensor::view(const Shape& shape) const {
  assert(is_contiguous() && shape.numel() == numel());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  return tensor;
}

Tensor Tensor::narrow(int dim, std::int64_t begin, std::int64_t length) const {
  assert(begin >= 0 && length >= 0 && begin + length <= size(dim));
  Tensor tensor = detach();
  tensor.shape_[dim] = length;
  tensor.offset_ += begin * strides_[dim];
  return tensor;
}

Tensor Tensor::split_first(std::int64_t outer, std::int64_t inner) const {
  assert(size(0) == outer * inner && rank() < Shape::max_rank);
  Tensor tensor = *this;
  std::array<std::int64_t, Shape::max_rank> dims{outer, inner};
  std::array<std::int64_t, Shape::max_rank> strides{inner * stride(0), stride(0)};
  for (int i = 1; i < rank(); ++i) {
    dims[static_cast<std::size_t>(i) + 1] = shape_[i];
    strides[static_cast<std::size_t>(i) + 1] = strides_[i];
  }
  const auto rank_now = static_cast<std::size_t>(rank()) + 1;
  tensor.shape_ = Shape(std::span(dims.data(), rank_now));
  tensor.strides_ = Shape(std::span(strides.data(), rank_now));
  return tensor;
}

Tensor Tensor::split_last(std::int64_t groups) const {
  assert(size(-1) % groups == 0 && stride(-1) == 1 && rank() < Shape::max_rank);
  Tensor tensor = *this;
  std::array<std::int64_t, Shape::max_rank> dims{};
  std::array<std::int64_t, Shape::max_rank> strides{};
  for (int i = 0; i < rank() - 1; ++i) {
    dims[static_cast<std::size_t>(i)] = shape_[i];
    strides[static_cast<std::size_t>(i)] = strides_[i];
  }
  const auto last = static_cast<std::size_t>(rank() - 1);
  const std::int64_t width = size(-1) / groups;
  dims[last] = groups;
  strides[last] = width;
  dims[last + 1] = width;
  strides[last + 1] = 1;
  tensor.shape_ = Shape(std::span(dims.data(), last + 2));
  tensor.strides_ = Shape(std::span(strides.data(), last + 2));
  return tensor;
}

Tensor Tensor::collapse_leading(int keep) const {
  const int leading = rank() - keep;
  assert(leading >= 1);
  Tensor tensor = *this;
  std::array<std::int64_t, Shape::max_rank> dims{};
  std::array<std::int64_t, Shape::max_rank> strides{};
  dims[0] = 1;
  for (int i = 0; i < leading; ++i) {
    dims[0] *= shape_[i];
    assert(i + 1 == leading || shape_[i] == 1 || strides_[i] == shape_[i + 1] * strides_[i + 1]);
  }
  strides[0] = strides_[leading - 1];
  for (int i = 0; i < keep; ++i) {
    dims[static_cast<std::size_t>(i) + 1] = shape_[leading + i];
    strides[static_cast<std::size_t>(i) + 1] = strides_[leading + i];
  }
  const auto rank_now = static_cast<std::size_t>(keep) + 1;
  tensor.shape_ = Shape(std::span(dims.data(), rank_now));
  tensor.strides_ = Shape(std::span(strides.data(), rank_now));
  return tensor;
}

Tensor Tensor::detach() const {
  Tensor tensor = *this;
  tensor.node_ = nullptr;
  tensor.output_index_ = 0;
  return tensor;
}

void Tensor::copy_from(const Tensor& other) {
  assert(shape_ == other.shape_ && dtype_ == other.dtype_ && is_contiguous() && other.is_contiguous());
  device().copy(raw(), other.raw(), bytes());
}

void Tensor::zero() {
  assert(is_contiguous());
  device().zero(raw(), bytes());
}

void Tensor::to_host(void* out) const {
  assert(is_contiguous());
  device().copy(out, raw(), bytes());
}

void Tensor::set_node(std::shared_ptr<Node> node, int output_index) {
  node_ = std::move(node);
  output_index_ = output_index;
}

}  // namespace tessera
