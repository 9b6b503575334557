#include "core/autograd/parameter.h"

#include <cassert>

#include "core/base/philox.h"
#include "core/tensor/device.h"
#include "core/tensor/elementwise.h"

namespace tessera {

Parameter::Parameter(std::string name, Shape shape, std::vector<Segment> segments, Initializer initializer,
                     bool decays, DType compute, Device& device)
    : name_(std::move(name)),
      segments_(std::move(segments)),
      initializer_(initializer),
      decays_(decays),
      compute_(compute),
      value_(Tensor::empty(shape, DType::f32, device)) {
  [[maybe_unused]] std::int64_t rows = 0;
  for (const Segment& segment : segments_) {
    assert(segment.begin == rows);
    rows += segment.rows;
  }
  assert(rows == shape[0]);
}

Shape Parameter::segment_shape(const Segment& segment) const {
  Shape shape = value_.shape();
  shape[0] = segment.rows;
  return shape;
}

void Parameter::initialize(std::uint64_t seed) {
  for (const Segment& segment : segments_) {
    const Tensor part = value_.narrow(0, segment.begin, segment.rows);
    std::vector<float> values(static_cast<std::size_t>(part.numel()));
    if (initializer_.kind == Initializer::Kind::constant)
      std::fill(values.begin(), values.end(), initializer_.value);
    else
      fill_normal(values, Key{seed, segment.name}, initializer_.value, device().threads());
    device().copy(part.raw(), values.data(), part.bytes());
  }
  changed();
}

const Tensor& Parameter::view(ViewKind kind) {
  assert(kind == ViewKind::compute);
  if (compute_ == DType::f32) return value_;
  if (cached_version_ != version_) {
    if (!cached_.defined()) cached_ = Tensor::empty(value_.shape(), compute_, device());
    convert(value_, cached_);
    cached_version_ = version_;
  }
  return cached_;
}

Parameter::GradientSink Parameter::gradient_sink() {
  assert(gradient_.defined() && "bind_gradient first");
  const bool accumulate = gradient_written_;
  gradient_written_ = true;
  return {gradient_, accumulate};
}

void Parameter::bind_gradient(Tensor gradient) {
  assert(gradient.shape() == value_.shape() && gradient.dtype() == DType::f32);
  gradient_ = std::move(gradient);
  gradient_written_ = false;
}

}  // namespace tessera
