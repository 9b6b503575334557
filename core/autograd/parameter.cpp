#include "core/autograd/parameter.h"

#include <algorithm>
#include <cassert>

#include "core/base/philox.h"
#include "core/tensor/device.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

// Values of the global tensor's elements that one row range of a segment holds, in storage order.
std::vector<float> draw(const Segment& segment, RowRange rows, std::int64_t columns, Key key, float deviation,
                        ThreadPool& threads) {
  std::vector<float> values(static_cast<std::size_t>(rows.size() * columns));
  const std::int64_t first = segment.first_row + rows.begin - segment.begin;
  const std::int64_t width = segment.global.rank() == 2 ? segment.global[1] : 1;
  if (width == columns) {
    fill_normal(values, key, deviation, threads, static_cast<std::uint64_t>(first * width));
    return values;
  }
  threads.parallel_for(rows.size(), [&](std::int64_t row) {
    const auto index = static_cast<std::uint64_t>((first + row) * width + segment.first_column);
    fill_normal(
        std::span(values).subspan(static_cast<std::size_t>(row * columns), static_cast<std::size_t>(columns)),
        key, deviation, index);
  });
  return values;
}

}  // namespace

ParameterSpec plain_parameter(const std::string& name, const Shape& shape, Initializer initializer) {
  return {name, shape, {{name, 0, shape[0], shape}}, initializer};
}

Parameter::Parameter(ParameterSpec spec, DType compute, Device& device)
    : spec_(std::move(spec)), compute_(compute), device_(&device), owned_{0, spec_.shape[0]} {
  [[maybe_unused]] std::int64_t rows = 0;
  for (const Segment& segment : spec_.segments) {
    assert(segment.begin == rows);
    rows += segment.rows;
  }
  assert(rows == spec_.shape[0]);
}

const Tensor& Parameter::value() const {
  if (original_ != nullptr) return original_->value();
  if (!value_.defined()) {
    Shape shape = spec_.shape;
    shape[0] = owned_.size();
    const MemoryScope scope(*device_, MemoryUse::weights);
    value_ = Tensor::empty(shape, DType::f32, *device_);
  }
  return value_;
}

void Parameter::bind_value(Tensor value, RowRange rows) {
  assert(value.dtype() == DType::f32 && value.size(0) == rows.size());
  value_ = std::move(value);
  owned_ = rows;
  changed();
}

void Parameter::initialize(std::uint64_t seed) {
  for (const Segment& segment : spec_.segments) {
    const RowRange rows = owned_rows(segment, owned_);
    if (rows.size() == 0) continue;
    const Tensor part = value().narrow(0, rows.begin - owned_.begin, rows.size());
    const std::vector<float> values =
        spec_.initializer.kind == Initializer::Kind::constant
            ? std::vector<float>(static_cast<std::size_t>(part.numel()), spec_.initializer.value)
            : draw(segment, rows, columns(), Key{seed, segment.name}, spec_.initializer.value,
                   device().threads());
    device().copy(part.raw(), values.data(), part.bytes());
  }
  changed();
}

const Tensor& Parameter::view(ViewKind kind) {
  assert(kind == ViewKind::compute);
  if (original_ != nullptr) return original_->view(kind);
  if (view_is_bound_) {
    if (!view_.defined() && fetch_) fetch_();
    assert(view_.defined() && "the view was taken away");
    return view_;
  }
  assert(owned_.size() == spec_.shape[0]);
  if (compute_ == DType::f32) return value();
  if (view_version_ != version_) {
    const MemoryScope scope(device(), MemoryUse::weights);
    if (!view_.defined()) view_ = Tensor::empty(spec_.shape, compute_, device());
    convert(value(), view_);
    view_version_ = version_;
  }
  return view_;
}

void Parameter::bind_view(Tensor view) {
  assert(!view.defined() || (view.shape() == spec_.shape && view.dtype() == compute_));
  view_ = std::move(view);
  view_is_bound_ = true;
}

Parameter::GradientSink Parameter::gradient_sink() {
  if (original_ != nullptr && !gradient_.defined() && !make_gradient_) return original_->gradient_sink();
  if (!gradient_.defined() && make_gradient_) make_gradient_();
  assert(gradient_.defined() && "bind_gradient first");
  const bool accumulate = gradient_written_;
  gradient_written_ = true;
  return {gradient_, accumulate};
}

void Parameter::bind_gradient(Tensor gradient) {
  assert(!gradient.defined() || (gradient.shape() == spec_.shape && gradient.dtype() == DType::f32));
  gradient_ = std::move(gradient);
  gradient_written_ = false;
}

Tensor Parameter::owned_gradient() const {
  if (owned_gradient_.defined()) return owned_gradient_;
  return gradient_.narrow(0, owned_.begin, owned_.size());
}

void Parameter::bind_owned_gradient(Tensor gradient) {
  assert(!gradient.defined() || gradient.size(0) == owned().size());
  owned_gradient_ = std::move(gradient);
}

RowRange owned_rows(const Segment& segment, RowRange owned) {
  const std::int64_t begin = std::max(segment.begin, owned.begin);
  return {begin, std::max(begin, std::min(segment.begin + segment.rows, owned.end))};
}

}  // namespace tessera
