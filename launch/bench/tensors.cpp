#include "launch/bench/tensors.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/philox.h"

namespace tessera::bench {
namespace {

const Key stream(1, "bench");

Tensor from_ids(const std::vector<std::int32_t>& ids, Device& device) {
  return Tensor::from_host(ids.data(), {static_cast<std::int64_t>(ids.size())}, DType::i32, device);
}

}  // namespace

Tensor normal(const Shape& shape, DType dtype, Device& device) {
  Tensor x = Tensor::empty(shape, dtype, device);
  const auto drawn = static_cast<std::size_t>(std::min<std::int64_t>(x.numel(), 1 << 18));
  std::vector<float> values(drawn);
  fill_normal(values, stream, 1, 0);
  const std::vector<bf16> rounded(values.begin(), values.end());
  auto* to = static_cast<std::byte*>(x.raw());
  std::size_t filled = drawn * bytes_per_element(dtype);
  device.copy(to, dtype == DType::bf16 ? static_cast<const void*>(rounded.data()) : values.data(), filled);
  while (filled < x.bytes()) {
    const std::size_t more = std::min(filled, x.bytes() - filled);
    device.copy(to + filled, to, more);
    filled += more;
  }
  return x;
}

Tensor constant(double value, const Shape& shape, DType dtype, Device& device) {
  const auto n = static_cast<std::size_t>(shape.numel());
  const std::vector<double> doubles(n, value);
  const std::vector<float> floats(n, static_cast<float>(value));
  return Tensor::from_host(dtype == DType::f64 ? static_cast<const void*>(doubles.data()) : floats.data(),
                           shape, dtype, device);
}

Tensor skewed_ids(std::int64_t n, std::int64_t count, Device& device) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    const double u = std::pow(static_cast<double>(uniform(stream, static_cast<std::uint64_t>(i))), 3);
    ids.push_back(static_cast<std::int32_t>(u * static_cast<double>(count)));
  }
  return from_ids(ids, device);
}

Tensor counting_ids(std::int64_t n, std::int64_t period, Device& device) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>(i % period));
  return from_ids(ids, device);
}

double bytes_of(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& x : tensors) bytes += static_cast<double>(x.bytes());
  return bytes;
}

std::string text(const Tensor& x) {
  std::string dims;
  for (int i = 0; i < x.rank(); ++i) dims += (i > 0 ? " x " : "") + std::to_string(x.size(i));
  return dims + " " + std::string(name(x.dtype()));
}

}  // namespace tessera::bench
