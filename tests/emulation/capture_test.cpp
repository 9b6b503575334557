// Work captured as a graph: what it must not do is reported, and its memory is its own.

#include "tests/emulation/kernels_test.h"

namespace tessera::cuda {
namespace {

using emulation::EmulatedCudaDevice;
using emulation::expect_fault;
using emulation::expect_right;
using emulation::floats;
using emulation::on_host;

__global__ void add_one(const float* x, float* y) {
  y[grid_index()] = x[grid_index()] + 1;
}

void put_next(Device& device, const Tensor& x, const Tensor& y) {
  launch(device.stream(), add_one, Grid{1, 32}, x.data<float>(), y.data<float>());
}

TEST(Capture, DoesNothingUntilItIsLaunched) {
  expect_right([](EmulatedCudaDevice& device) {
    const Tensor x = floats(device, 32);
    const auto graph = device.capture([&] {
      const Tensor y = floats(device, 32);
      put_next(device, x, y);
      put_next(device, y, x);
    });
    EXPECT_EQ(on_host(x)[7], 0);
    graph->launch();
    graph->launch();
    EXPECT_EQ(on_host(x)[7], 4);
  });
}

TEST(Capture, AnExchangeWithTheHostIsReported) {
  const auto capturing = [](auto work) {
    return [work](EmulatedCudaDevice& device) {
      const Tensor x = floats(device, 32);
      device.capture([&] { work(device, x); });
    };
  };
  expect_fault("work captured as a graph exchanges data with the host",
               capturing([](Device&, const Tensor& x) { on_host(x); }));
  expect_fault("work captured as a graph exchanges data with the host",
               capturing([](Device& device, const Tensor&) {
                 const float one = 1;
                 Tensor::from_host(&one, {1}, DType::f32, device);
               }));
  expect_fault("work captured as a graph waits for the device",
               capturing([](Device& device, const Tensor&) { device.stream().synchronize(); }));
  expect_fault("work captured as a graph records an event",
               capturing([](Device& device, const Tensor&) { device.stream().record(); }));
  expect_fault("work captured as a graph launches a kernel on another stream",
               capturing([](Device& device, const Tensor& x) {
                 const auto other = device.make_stream(false);
                 launch(*other, add_one, Grid{1, 32}, x.data<float>(), x.data<float>());
               }));
}

TEST(Capture, AFaultLeavesTheDeviceAsItWas) {
  EmulatedCudaDevice device({}, 1);
  const Tensor x = floats(device, 32);
  EXPECT_THROW(device.capture([&] { on_host(x); }), Error);
  put_next(device, x, x);
  EXPECT_EQ(on_host(x)[0], 1);
}

// A kernel captured with memory that goes before the launch.
TEST(Capture, ReleasedInputIsReported) {
  expect_fault("a kernel is given memory that has been released", [](EmulatedCudaDevice& device) {
    const Tensor y = floats(device, 32);
    std::unique_ptr<Graph> graph;
    {
      const Tensor x = floats(device, 32);
      graph = device.capture([&] { put_next(device, x, y); });
    }
    graph->launch();
  });
}

// What a graph released may be another graph's, so nothing else may look at it, and it keeps no value.
TEST(Capture, ReleasedMemoryIsTheGraphsOwn) {
  expect_fault("memory that has been released, and belongs to graphs", [](EmulatedCudaDevice& device) {
    const Tensor x = floats(device, 32);
    float* inner = nullptr;
    const auto graph = device.capture([&] {
      const Tensor y = floats(device, 32);
      inner = y.data<float>();
    });
    graph->launch();
    launch(device.stream(), add_one, Grid{1, 32}, x.data<float>(), inner);
  });
  EmulatedCudaDevice device({}, 1);
  const Tensor x = floats(device, 32);
  const auto graph = device.capture([&] {
    const Tensor unwritten = Tensor::empty({32}, DType::f32, device);
    put_next(device, unwritten, x);
    put_next(device, x, unwritten);
  });
  for (int launch = 0; launch < 2; ++launch) {
    graph->launch();
    EXPECT_TRUE(std::isnan(on_host(x)[3])) << launch;
  }
}

TEST(Capture, WhatItLeavesOutlivesIt) {
  expect_right([](EmulatedCudaDevice& device) {
    const Tensor x = floats(device, 32);
    Tensor y;
    {
      const auto graph = device.capture([&] {
        y = floats(device, 32);
        put_next(device, x, y);
      });
      graph->launch();
    }
    EXPECT_EQ(on_host(y)[3], 1);
    y = Tensor();
  });
}

}  // namespace
}  // namespace tessera::cuda
