#include "tests/kernels/op_case.h"
#include "tests/seed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/autograd/tape.h"

namespace tessera::testing_ops {
namespace {

constexpr std::size_t guard = 4096;
constexpr unsigned char guard_byte = 0xA5;

double rounded(double value, DType dtype) {
  const auto single = static_cast<float>(value);
  if (dtype == DType::bf16) return static_cast<double>(static_cast<float>(bf16(single)));
  return dtype == DType::f64 ? value : static_cast<double>(single);
}

// Elements of any float tensor, whatever its strides, in logical order.
template <class Visit>
void each_element(const Tensor& t, Visit visit) {
  std::int64_t position = 0;
  const std::function<void(int, std::int64_t)> walk = [&](int dim, std::int64_t offset) {
    if (dim == t.rank()) {
      visit(position++, offset);
      return;
    }
    for (std::int64_t i = 0; i < t.size(dim); ++i) walk(dim + 1, offset + i * t.stride(dim));
  };
  walk(0, 0);
}

// The bytes from a tensor's first element to its last, gaps included.
std::vector<std::byte> span_of(const Tensor& t) {
  if (t.numel() == 0) return {};
  std::int64_t last = 0;
  for (int dim = 0; dim < t.rank(); ++dim) last += (t.size(dim) - 1) * t.stride(dim);
  std::vector<std::byte> bytes(static_cast<std::size_t>(last + 1) * bytes_per_element(t.dtype()));
  t.device().copy(bytes.data(), t.raw(), bytes.size());
  return bytes;
}

template <class Visit>
void visit_type(DType dtype, Visit visit) {
  if (dtype == DType::bf16)
    visit(bf16{});
  else if (dtype == DType::f32)
    visit(float{});
  else if (dtype == DType::i32)
    visit(std::int32_t{});
  else
    visit(double{});
}

double wide(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}
double wide(double x) {
  return x;
}
double wide(std::int32_t x) {
  return x;
}

Array read(const Tensor& t) {
  Array out(static_cast<std::size_t>(t.numel()));
  const std::vector<std::byte> bytes = span_of(t);
  visit_type(t.dtype(), [&](auto tag) {
    const auto* data = reinterpret_cast<const decltype(tag)*>(bytes.data());
    each_element(t, [&](std::int64_t i, std::int64_t offset) {
      out[static_cast<std::size_t>(i)] = wide(data[offset]);
    });
  });
  return out;
}

void write(const Tensor& t, const Array& values) {
  std::vector<std::byte> bytes = span_of(t);
  visit_type(t.dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto* data = reinterpret_cast<T*>(bytes.data());
    each_element(t, [&](std::int64_t i, std::int64_t offset) {
      const double value = values[static_cast<std::size_t>(i)];
      if constexpr (sizeof(T) < sizeof(double))
        data[offset] = T(static_cast<float>(value));
      else
        data[offset] = value;
    });
  });
  t.device().copy(t.raw(), bytes.data(), bytes.size());
}

// A tensor of the case's shape; strided ones lie in a buffer with 5 more columns, the first 2 before them.
Tensor make(const CaseInput& input, DType dtype, Device& device) {
  const DType type = input.always_f32 ? DType::f32 : dtype;
  if (!input.strided) return Tensor::empty(input.shape, type, device);
  const bool heads = input.shape.rank() == 4;
  const std::int64_t width = heads ? input.shape[2] * input.shape[3] : input.shape[-1];
  std::vector<std::int64_t> dims;
  for (int d = 0; d < (heads ? 2 : input.shape.rank() - 1); ++d) dims.push_back(input.shape[d]);
  dims.push_back(width + 5);
  const Tensor view = Tensor::empty(Shape(dims), type, device).narrow(-1, 2, width);
  return heads ? view.split_last(input.shape[2]) : view;
}

struct CaseValues {
  Arrays inputs;      // then parameters
  Arrays cotangents;  // of the outputs
};

struct Results {
  Arrays outputs, input_gradients, parameter_gradients, accumulated;
  std::vector<Shape> shapes;
  std::size_t peak = 0;
};

// The op forward, and backward twice, the second time into gradients that are kept. `values` null: on meta.
Results run(const OpCase& test, DType dtype, Device& device, const CaseValues* values) {
  Results results;
  std::vector<Tensor> leaves;
  std::vector<std::unique_ptr<Parameter>> owned;
  std::vector<Parameter*> parameters;
  std::vector<Tensor> tensors;
  for (const CaseInput& input : test.inputs) tensors.push_back(make(input, dtype, device));
  for (const CaseInput& p : test.parameters) {
    owned.push_back(std::make_unique<Parameter>(plain_parameter(p.name, p.shape), dtype, device));
    owned.back()->bind_gradient(Tensor::empty(p.shape, DType::f32, device));
    parameters.push_back(owned.back().get());
  }
  if (values != nullptr) {
    for (std::size_t i = 0; i < tensors.size(); ++i) write(tensors[i], values->inputs[i]);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      write(parameters[i]->value(), values->inputs[tensors.size() + i]);
      parameters[i]->changed();
    }
  }
  for (int pass = 0; pass < (test.differentiable ? 2 : 1); ++pass) {
    std::vector<Tensor> x;
    leaves.clear();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const bool leaf = test.differentiable && test.inputs[i].gradient;
      x.push_back(leaf ? as_leaf(tensors[i]) : tensors[i]);
      if (leaf) leaves.push_back(x.back());
    }
    const std::vector<Tensor> outputs = test.op(x, parameters);
    results.shapes.clear();
    for (const Tensor& out : outputs) {
      results.shapes.push_back(out.shape());
      if (values != nullptr && pass == 0) results.outputs.push_back(read(out));
    }
    if (!test.differentiable) break;
    std::vector<Tensor> seeds;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      seeds.push_back(Tensor::empty(outputs[i].shape(), outputs[i].dtype(), device));
      if (values != nullptr) write(seeds.back(), values->cotangents[i]);
    }
    const std::vector<Tensor> gradients = backward(outputs, seeds, leaves);
    if (values == nullptr) continue;
    if (pass == 0)
      for (const Tensor& g : gradients) results.input_gradients.push_back(read(g));
    for (Parameter* p : parameters)
      (pass == 0 ? results.parameter_gradients : results.accumulated).push_back(read(p->gradient()));
  }
  results.peak = device.memory().peak;
  return results;
}

CaseValues draw(const OpCase& test, DType dtype) {
  std::mt19937_64 generator(test_seed());
  std::normal_distribution<double> normal;
  CaseValues values;
  for (const auto* list : {&test.inputs, &test.parameters})
    for (const CaseInput& input : *list) {
      Array array(static_cast<std::size_t>(input.shape.numel()));
      for (double& value : array)
        value =
            rounded(input.offset + input.scale * normal(generator), input.always_f32 ? DType::f32 : dtype);
      values.inputs.push_back(std::move(array));
    }
  if (!test.differentiable) return values;
  for (const Array& out : test.reference(values.inputs)) {
    Array array(out.size());
    for (double& value : array) value = test.unit_cotangents ? 1 : rounded(normal(generator), dtype);
    values.cotangents.push_back(std::move(array));
  }
  return values;
}

double largest(const Array& array) {
  double top = 0;
  for (const double value : array) top = std::max(top, std::fabs(value));
  return top;
}

// fp32 sums of `terms` numbers err by about √terms half units of the largest partial sum, for which the
// tensor's largest element stands; each rounding to bf16 adds half a unit of 2^-8.
double relative_tolerance(const OpCase& test, DType dtype) {
  const double single = 8 * std::sqrt(test.terms) * std::ldexp(1, -24);
  return dtype == DType::bf16 ? single + test.roundings * std::ldexp(1, -9) : single;
}

void compare(const Array& got, const Array& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double top = largest(want);
  int shown = 0;
  for (std::size_t i = 0; i < got.size() && shown < 3; ++i) {
    const double allowed = tolerance * (std::fabs(want[i]) + top);
    if (std::fabs(got[i] - want[i]) <= allowed) continue;
    ADD_FAILURE() << what << " [" << i << "]: " << got[i] << ", reference " << want[i] << ", allowed "
                  << allowed;
    ++shown;
  }
}

double objective(const OpCase& test, const CaseValues& values) {
  const Arrays outputs = test.reference(values.inputs);
  double total = 0;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    for (std::size_t j = 0; j < outputs[i].size(); ++j) total += outputs[i][j] * values.cotangents[i][j];
  return total;
}

// Central differences of the double reference; step 1e-5 leaves errors near 1e-10.
void check_gradient(const OpCase& test, CaseValues& values, std::size_t which, const Array& got,
                    double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), values.inputs[which].size()) << what;
  std::mt19937_64 generator(test_seed() + which);
  const double top = largest(got);
  EXPECT_GT(top, 0) << what;
  const std::size_t n = got.size();
  const auto samples = std::min<std::size_t>(n, static_cast<std::size_t>(test.samples));
  int shown = 0;
  for (std::size_t s = 0; s < samples && shown < 3; ++s) {
    const std::size_t i = samples == n ? s : generator() % n;
    double& value = values.inputs[which][i];
    const double kept = value;
    const double h = 1e-5 * std::max(1.0, std::fabs(kept));
    value = kept + h;
    const double above = objective(test, values);
    value = kept - h;
    const double below = objective(test, values);
    value = kept;
    const double want = (above - below) / (2 * h);
    const double allowed = tolerance * (std::fabs(want) + top) + 1e-8;
    if (std::fabs(got[i] - want) <= allowed) continue;
    ADD_FAILURE() << "gradient of " << what << " [" << i << "]: " << got[i] << ", reference " << want
                  << ", allowed " << allowed;
    ++shown;
  }
}

}  // namespace

void GuardedDevice::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void GuardedDevice::zero(void* address, std::size_t bytes) {
  if (bytes > 0) std::memset(address, 0, bytes);
}

void* GuardedDevice::do_allocate(std::size_t bytes) {
  const std::size_t total = (bytes + 2 * guard + 63) / 64 * 64;
  auto* base = static_cast<unsigned char*>(std::aligned_alloc(64, total));
  if (base == nullptr) return nullptr;
  std::memset(base, guard_byte, total);
  std::memset(base + guard, 0xff, bytes);
  return base + guard;
}

void GuardedDevice::do_release(void* address, std::size_t bytes) noexcept {
  auto* base = static_cast<unsigned char*>(address) - guard;
  bool intact = true;
  for (std::size_t i = 0; i < guard; ++i)
    intact = intact && base[i] == guard_byte && base[guard + bytes + i] == guard_byte;
  if (!intact) ++violations_;
  std::free(base);
}

Backend cpu_backend() {
  return {.devices = 2,
          .make = [](int index) { return std::make_unique<GuardedDevice>(index == 0 ? 1 : 3); },
          .violations =
              [](const Device& device) { return static_cast<const GuardedDevice&>(device).violations(); },
          .memory_as_meta = true};
}

namespace {

// Of the case on a device of its own.
Results run_on(const Backend& backend, int index, const OpCase& test, DType dtype, const CaseValues& values) {
  const std::unique_ptr<Device> device = backend.make(index);
  Results results = run(test, dtype, *device, &values);
  if (backend.violations) {
    EXPECT_EQ(backend.violations(*device), 0) << "wrote outside a buffer";
  }
  return results;
}

void check_same_bits(const Results& a, const Results& b) {
  const auto same = [](const Arrays& x, const Arrays& y) {
    bool equal = x.size() == y.size();
    for (std::size_t i = 0; equal && i < x.size(); ++i)
      equal = x[i].size() == y[i].size() &&
              std::memcmp(x[i].data(), y[i].data(), x[i].size() * sizeof(double)) == 0;
    return equal;
  };
  EXPECT_TRUE(same(a.outputs, b.outputs)) << "bits depend on the order of threads";
  EXPECT_TRUE(same(a.input_gradients, b.input_gradients))
      << "bits of gradients depend on the order of threads";
  EXPECT_TRUE(same(a.parameter_gradients, b.parameter_gradients) && same(a.accumulated, b.accumulated))
      << "bits of weight gradients depend on the order of threads";
}

}  // namespace

void check_case(const OpCase& test, DType dtype, const Backend& backend) {
  SCOPED_TRACE(test.name + " in " + std::string(name(dtype)) +
               ", TESSERA_TEST_SEED=" + std::to_string(test_seed()));
  CaseValues values = draw(test, dtype);
  const Results a = run_on(backend, 0, test, dtype, values);
  for (int index = 1; index < backend.devices; ++index)
    check_same_bits(a, run_on(backend, index, test, dtype, values));

  const auto real = backend.make(0);
  const auto meta = make_device(DeviceKind::meta, {.stands_for = real.get()});
  const Results dry = run(test, dtype, *meta, nullptr);
  EXPECT_EQ(dry.shapes, a.shapes);
  if (backend.memory_as_meta) {
    EXPECT_EQ(dry.peak, a.peak) << "meta counts other memory than the device uses";
  }

  const double tolerance = relative_tolerance(test, dtype);
  const Arrays want = test.reference(values.inputs);
  ASSERT_EQ(a.outputs.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    compare(a.outputs[i], want[i], tolerance, "output " + std::to_string(i));
  if (!test.differentiable) return;
  std::size_t leaf = 0;
  for (std::size_t i = 0; i < test.inputs.size(); ++i)
    if (test.inputs[i].gradient)
      check_gradient(test, values, i, a.input_gradients[leaf++], 2 * tolerance, test.inputs[i].name);
  for (std::size_t i = 0; i < test.parameters.size(); ++i) {
    check_gradient(test, values, test.inputs.size() + i, a.parameter_gradients[i], 2 * tolerance,
                   test.parameters[i].name);
    Array twice = a.parameter_gradients[i];
    for (double& value : twice) value *= 2;
    compare(a.accumulated[i], twice, relative_tolerance(test, DType::f32), "accumulated gradient");
  }
}

std::set<std::string> slots_used(const OpCase& test) {
  std::set<std::string> used;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !test.bf16) continue;
    const CaseValues values = draw(test, dtype);
    GuardedDevice device(1);
    run(test, dtype, device, &values);
    for (const auto& [slot, candidate] : device.chosen_kernels) used.insert(slot);
  }
  return used;
}

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases;
  for (const auto& part : {elementwise_cases(), matmul_cases(), sequence_cases(), loss_cases(),
                           expert_cases(), row_layout_cases()})
    cases.insert(cases.end(), part.begin(), part.end());
  return cases;
}

}  // namespace tessera::testing_ops
