// Shapes, storage and tensors.
//
// A Tensor is a cheap handle: copying it shares the bytes. It holds shape, strides (in elements), dtype and
// offset into reference-counted Storage and, while a tape is recorded, the Node that made it. Handles belong
// to one rank's thread.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/base/dtype.h"

namespace tessera {

class Device;
enum class MemoryUse : std::uint8_t;
struct Node;

// Up to six dimensions; a value.
class Shape {
 public:
  static constexpr int max_rank = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims) {
    assert(dims.size() <= max_rank);
    for (const std::int64_t dim : dims) dims_[static_cast<std::size_t>(rank_++)] = dim;
  }
  int rank() const { return rank_; }
  // Negative indices count from the end.
  std::int64_t operator[](int i) const { return dims_[index(i)]; }
  std::int64_t& operator[](int i) { return dims_[index(i)]; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<std::size_t>(i)];
    return n;
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    bool same = a.rank_ == b.rank_;
    for (int i = 0; same && i < a.rank_; ++i) same = a[i] == b[i];
    return same;
  }
  std::string text() const;  // "[2, 83, 64]"

 private:
  std::size_t index(int i) const {
    assert(i < rank_ && i >= -rank_);
    return static_cast<std::size_t>(i < 0 ? i + rank_ : i);
  }
  std::array<std::int64_t, max_rank> dims_{};
  int rank_ = 0;
};

// Bytes on a device, freed with the last handle.
class Storage {
 public:
  Storage(Device& device, std::size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  Device& device() const { return device_; }
  void* address() const { return address_; }

 private:
  Device& device_;
  std::size_t bytes_;
  MemoryUse use_;
  void* address_;
};

class Tensor {
 public:
  Tensor() = default;
  static Tensor empty(const Shape& shape, DType dtype, Device& device);
  static Tensor zeros(const Shape& shape, DType dtype, Device& device);
  // Copies host memory of shape.numel() elements.
  static Tensor from_host(const void* data, const Shape& shape, DType dtype, Device& device);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t size(int dim) const { return shape_[dim]; }
  int rank() const { return shape_.rank(); }
  std::int64_t stride(int dim) const { return strides_[dim]; }
  std::int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  Device& device() const { return storage_->device(); }
  bool is_contiguous() const;
  // Bytes of the elements, without strides' gaps.
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * bytes_per_element(dtype_); }

  void* raw() const;
  // T must be the dtype's C++ type (checked by size). A handle is shallowly const.
  template <class T>
  T* data() const {
    assert(sizeof(T) == bytes_per_element(dtype_));
    return static_cast<T*>(raw());
  }

  // Views share the bytes and are not recorded: use the ops of core/ops where gradients matter.
  Tensor view(const Shape& shape) const;                                  // of a contiguous tensor
  Tensor narrow(int dim, std::int64_t begin, std::int64_t length) const;  // keeps strides
  // A view of a contiguous last dimension as [.., groups, size / groups], strides kept.
  Tensor split_last(std::int64_t groups) const;
  // The first dimension as [outer, inner], strides kept.
  Tensor split_first(std::int64_t outer, std::int64_t inner) const;
  // All dimensions but the last `keep` as one; each of those must be contiguous over the next.
  Tensor collapse_leading(int keep) const;
  Tensor detach() const;  // the same bytes, off the tape

  void copy_from(const Tensor& other);  // same shape and dtype, both contiguous
  void zero();
  void to_host(void* out) const;

  // The tape (core/autograd): the node that made this tensor and which of its outputs it is.
  const std::shared_ptr<Node>& node() const { return node_; }
  int output_index() const { return output_index_; }
  void set_node(std::shared_ptr<Node> node, int output_index);

 private:
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;  // in elements
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::f32;
  int output_index_ = 0;
  std::shared_ptr<Node> node_;
};

}  // namespace tessera
