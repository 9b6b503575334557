// The tape: sums over shared inputs, recomputation, deferred weight gradients, what is recorded.

#include "core/autograd/tape.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>

#include "core/autograd/parameter.h"
#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

constexpr std::int64_t width = 12;

std::vector<float> values_of(const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  tensor.to_host(values.data());
  return values;
}

// A small gated network over rows: norm, linear, swiglu, linear, residual.
struct Network {
  std::unique_ptr<Device> device = make_device(DeviceKind::cpu, {0, 2});
  std::unique_ptr<Parameter> norm, up, down;

  Network() {
    norm = make("norm", {width});
    up = make("up", {2 * width, width});
    down = make("down", {width, width});
  }
  std::unique_ptr<Parameter> make(const std::string& name, const Shape& shape) const {
    auto p = std::make_unique<Parameter>(plain_parameter(name, shape, {Initializer::Kind::normal, 0.5F}),
                                         DType::f32, *device);
    p->initialize(5);
    p->bind_gradient(Tensor::empty(shape, DType::f32, *device));
    return p;
  }
  Tensor filled(const Shape& shape, float step) const {
    std::vector<float> values(static_cast<std::size_t>(shape.numel()));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 7 % 23) - 11) * step;
    return Tensor::from_host(values.data(), shape, DType::f32, *device);
  }
  Tensor block(const Tensor& x) const {
    return add(x, linear(swiglu(linear(rms_norm(x, *norm, 1e-5F), *up, nullptr)), *down, nullptr));
  }
  // The gradients of x and of the three parameters, after `run`.
  std::vector<std::vector<float>> gradients(const Tensor& of_x) const {
    return {values_of(of_x), values_of(norm->gradient()), values_of(up->gradient()),
            values_of(down->gradient())};
  }
};

TEST(Tape, CheckpointGivesTheBitsOfThePlainRun) {
  std::vector<std::vector<float>> results[2];
  for (const bool recompute : {false, true}) {
    const Network net;
    const Tensor x = as_leaf(net.filled({9, width}, 0.1F));
    const auto block = [&net](const Tensor& in) { return net.block(in); };
    const Tensor middle = recompute ? checkpoint(block, x) : block(x);
    const Tensor y = recompute ? checkpoint(block, middle) : block(middle);
    const Tensor seed = net.filled({9, width}, 0.05F);
    const auto of_x = backward(std::span(&y, 1), std::span(&seed, 1), std::span(&x, 1));
    results[recompute ? 1 : 0] = net.gradients(of_x[0]);
    results[recompute ? 1 : 0].push_back(values_of(y));
  }
  EXPECT_EQ(results[0], results[1]);
}

// From recomputed regions too: nothing reaches a parameter before its task runs, and the bits are the same.
TEST(Tape, DeferredWeightGradientsEqualImmediateOnes) {
  for (const bool recompute : {false, true}) {
    std::vector<std::vector<float>> results[2];
    for (const bool deferred : {false, true}) {
      const Network net;
      const Tensor x = as_leaf(net.filled({9, width}, 0.1F));
      const auto block = [&net](const Tensor& in) { return net.block(in); };
      const Tensor y = recompute ? checkpoint(block, x) : block(x);
      const Tensor seed = net.filled({9, width}, 0.05F);
      WeightTasks tasks;
      const auto of_x =
          backward(std::span(&y, 1), std::span(&seed, 1), std::span(&x, 1), deferred ? &tasks : nullptr);
      if (deferred) {
        EXPECT_GE(tasks.size(), 2U);
        EXPECT_FALSE(net.up->gradient_written());
      }
      for (const auto& task : tasks) task();
      EXPECT_TRUE(net.up->gradient_written() && net.down->gradient_written() && net.norm->gradient_written());
      results[deferred ? 1 : 0] = net.gradients(of_x[0]);
    }
    EXPECT_EQ(results[0], results[1]);
  }
}

TEST(Tape, AddsTheGradientsOfEveryUse) {
  const Network net;
  const Tensor x = as_leaf(net.filled({2, 3}, 1));
  const Tensor twice = add(x, x);
  const Tensor y = add(add(twice, x), twice);  // 5 x
  const Tensor seed = net.filled({2, 3}, 0.5F);
  const auto g = backward(std::span(&y, 1), std::span(&seed, 1), std::span(&x, 1));
  std::vector<float> want = values_of(seed);
  for (float& value : want) value *= 5;
  EXPECT_EQ(values_of(g[0]), want);
}

TEST(Tape, TakesSeveralOutputsAndLeavesUnreachedLeavesUndefined) {
  const Network net;
  const Tensor x = as_leaf(net.filled({4, 6}, 1));
  const Tensor other = as_leaf(net.filled({4, 6}, 1));
  const auto parts = split(x, {2, 4});
  const Tensor seeds[] = {net.filled({4, 2}, 1), net.filled({4, 4}, 2)};
  const Tensor leaves[] = {x, other};
  const auto g = backward(parts, seeds, leaves);
  const std::vector<float> joined = values_of(g[0]);
  EXPECT_EQ(joined[0], values_of(seeds[0])[0]);
  EXPECT_EQ(joined[2], values_of(seeds[1])[0]);
  EXPECT_EQ(joined[6], values_of(seeds[0])[2]);
  EXPECT_FALSE(g[1].defined());
}

TEST(Tape, ReturnsGradientsInTheLeafsShapeWhateverViewWasUsed) {
  const Network net;
  const Tensor x = as_leaf(net.filled({4, 6}, 1));
  const Tensor y = add(x.view({2, 12}), x.view({2, 12}));
  const Tensor seed = net.filled({2, 12}, 1);
  const auto g = backward(std::span(&y, 1), std::span(&seed, 1), std::span(&x, 1));
  EXPECT_EQ(g[0].shape(), (Shape{4, 6}));
}

TEST(Tape, RecordsOnlyWhatIsAskedFor) {
  const Network net;
  const Tensor plain = net.filled({2, width}, 1);
  EXPECT_FALSE(add(plain, plain).node());
  EXPECT_TRUE(net.block(plain).node());  // it has parameters
  const NoGrad off;
  EXPECT_FALSE(net.block(as_leaf(plain)).node());
  const RecordScope on;
  EXPECT_TRUE(net.block(as_leaf(plain)).node());
}

// Graphs are independent: pipelines hold several forward passes before the first backward.
TEST(Tape, KeepsMicrobatchesInFlightApart) {
  const auto run = [](bool interleaved) {
    const Network net;
    std::vector<Tensor> outputs;
    const Tensor seed = net.filled({9, width}, 0.05F);
    const auto finish = [&](const Tensor& y) { backward(std::span(&y, 1), std::span(&seed, 1)); };
    for (const float step : {0.1F, 0.2F, 0.3F}) {
      outputs.push_back(net.block(net.filled({9, width}, step)));
      if (!interleaved) finish(outputs.back());
    }
    if (interleaved)
      for (const Tensor& y : outputs) finish(y);
    return values_of(net.up->gradient());
  };
  EXPECT_EQ(run(false), run(true));
}

// A chain as long as a deep model's: neither the walk nor dropping the graph may recurse.
TEST(Tape, WalksAndDropsDeepGraphs) {
  const Network net;
  const Tensor x = as_leaf(net.filled({1}, 1));
  const Tensor seed = net.filled({1}, 1);
  for (const bool walk : {true, false}) {
    Tensor y = x;
    for (int i = 0; i < 300000; ++i) y = add(y, x);
    if (walk) backward(std::span(&y, 1), std::span(&seed, 1), std::span(&x, 1));
  }
}

TEST(Tape, FreesWhatItSavedOnceUsed) {
  const Network net;
  const std::size_t before = net.device->memory().in_use;
  {
    const Tensor x = net.filled({64, width}, 0.1F);
    const Tensor y = net.block(x);
    const std::size_t held = net.device->memory().in_use;
    const Tensor seed = net.filled({64, width}, 0.1F);
    backward(std::span(&y, 1), std::span(&seed, 1));
    EXPECT_LT(net.device->memory().in_use, held);
  }
  EXPECT_EQ(net.device->memory().in_use, before);
}

}  // namespace
}  // namespace tessera
