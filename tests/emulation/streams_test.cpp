// The emulated device must report what would go wrong between streams that do overlap, and wrong addresses.

#include <thread>

#include "tests/emulation/kernels_test.h"

namespace tessera::cuda {
namespace {

using emulation::EmulatedCudaDevice;
using emulation::expect_fault;
using emulation::expect_right;
using emulation::floats;

__global__ void add_one(const float* x, float* y) {
  y[grid_index()] = x[grid_index()] + 1;
}
__global__ void add_lists(Pointers<const float, 2> x, Pointers<float, 2> y) {
  for (int i = 0; i < 2; ++i) y.at[i][grid_index()] = x.at[i][grid_index()];
}

enum class Order { none, event, synchronize, late_event };

// `first` on the device's stream and `second` on another, ordered as asked.
template <class First, class Second>
auto on_two_streams(Order order, First first, Second second) {
  return [=](EmulatedCudaDevice& device) {
    const Tensor a = floats(device, 32);
    const Tensor b = floats(device, 32);
    const Tensor c = floats(device, 32);
    const auto other = device.make_stream(true);
    device.stream().synchronize();
    if (order == Order::late_event) other->wait(device.stream().record());
    first(device.stream(), a, b, c);
    if (order == Order::event) other->wait(device.stream().record());
    if (order == Order::synchronize) device.stream().synchronize();
    second(*other, a, b, c);
    other->synchronize();
  };
}

const auto b_of_a = [](Stream& on, const Tensor& a, const Tensor& b, const Tensor&) {
  launch(on, add_one, Grid{1, 32}, a.data<float>(), b.data<float>());
};
const auto c_of_b = [](Stream& on, const Tensor&, const Tensor& b, const Tensor& c) {
  launch(on, add_one, Grid{1, 32}, b.data<float>(), c.data<float>());
};
const auto c_of_a = [](Stream& on, const Tensor& a, const Tensor&, const Tensor& c) {
  launch(on, add_one, Grid{1, 32}, a.data<float>(), c.data<float>());
};
const auto a_of_c = [](Stream& on, const Tensor& a, const Tensor&, const Tensor& c) {
  launch(on, add_one, Grid{1, 32}, c.data<float>(), a.data<float>());
};
const auto b_in_a_list = [](Stream& on, const Tensor& a, const Tensor& b, const Tensor& c) {
  launch(on, add_lists, Grid{1, 32}, Pointers<const float, 2>{{a.data<float>(), b.data<float>()}},
         Pointers<float, 2>{{c.data<float>(), c.data<float>()}});
};

TEST(Streams, AMissingEventIsReported) {
  for (const Order order : {Order::event, Order::synchronize}) {
    expect_right(on_two_streams(order, b_of_a, c_of_b));
    expect_right(on_two_streams(order, b_of_a, b_of_a));
    expect_right(on_two_streams(order, b_of_a, a_of_c));
  }
  expect_right(on_two_streams(Order::none, b_of_a, c_of_a));  // both only read a
  for (const Order order : {Order::none, Order::late_event}) {
    expect_fault("stream 1 reads bytes 0 to 128, which stream 0 writes, and no event",
                 on_two_streams(order, b_of_a, c_of_b));
    expect_fault("stream 1 writes bytes 0 to 128, which stream 0 writes",
                 on_two_streams(order, b_of_a, b_of_a));
    expect_fault("stream 1 writes bytes 0 to 128, which stream 0 reads",
                 on_two_streams(order, b_of_a, a_of_c));
    expect_fault("stream 1 reads bytes 0 to 128", on_two_streams(order, b_of_a, b_in_a_list));
  }
}

TEST(Streams, OrderPassesThroughAThirdStream) {
  expect_right([](EmulatedCudaDevice& device) {
    const Tensor a = floats(device, 32);
    const Tensor b = floats(device, 32);
    const auto second = device.make_stream(false);
    const auto third = device.make_stream(false);
    b_of_a(device.stream(), a, b, {});
    second->wait(device.stream().record());
    third->wait(second->record());
    b_of_a(*third, a, b, {});
    device.stream().wait(third->record());
  });
}

TEST(Streams, CopiesAndZeroingTakePart) {
  const auto device_work = [](Order order, auto work) {
    return [=](EmulatedCudaDevice& device) {
      const Tensor a = floats(device, 32);
      const Tensor b = floats(device, 32);
      const auto other = device.make_stream(true);
      device.stream().synchronize();
      b_of_a(*other, a, b, {});
      if (order == Order::event) device.stream().wait(other->record());
      work(a, b);
      other->synchronize();
    };
  };
  const auto read_back = [](const Tensor&, const Tensor& b) { emulation::on_host(b); };
  const auto clear = [](const Tensor& a, const Tensor&) { Tensor(a).zero(); };
  const auto copy = [](const Tensor& a, const Tensor& b) { Tensor(a).copy_from(b); };
  expect_right(device_work(Order::event, read_back));
  expect_right(device_work(Order::event, clear));
  expect_right(device_work(Order::event, copy));
  expect_fault("stream 0 reads bytes 0 to 128, which stream 1 writes", device_work(Order::none, read_back));
  expect_fault("stream 0 writes bytes 0 to 128, which stream 1 reads", device_work(Order::none, clear));
  expect_fault("stream 0 reads bytes 0 to 128, which stream 1 writes", device_work(Order::none, copy));
}

TEST(Streams, MemoryReleasedTooEarlyIsReported) {
  const auto release = [](bool wait) {
    return [wait](EmulatedCudaDevice& device) {
      const auto other = device.make_stream(true);
      {
        const Tensor a = floats(device, 32);
        const Tensor b = floats(device, 32);
        other->wait(device.stream().record());
        b_of_a(*other, a, b, {});
        if (wait) device.stream().wait(other->record());
      }
      device.stream().synchronize();
    };
  };
  expect_right(release(true));
  expect_fault("of memory that is released, and no event orders them", release(false));
}

TEST(Device, WrongAddressesAreReported) {
  expect_fault("a kernel is given memory that has been released", [](EmulatedCudaDevice& device) {
    const Tensor y = floats(device, 32);
    const float* gone = floats(device, 32).data<float>();
    launch(device.stream(), add_one, Grid{1, 32}, gone, y.data<float>());
  });
  expect_fault("in no allocation of its device", [](EmulatedCudaDevice& device) {
    const std::vector<float> host(32);
    launch(device.stream(), add_one, Grid{1, 32}, host.data(), floats(device, 32).data<float>());
  });
  expect_fault("copying from memory that has been released", [](EmulatedCudaDevice& device) {
    const float* gone = floats(device, 32).data<float>();
    const Tensor y = floats(device, 32);
    device.copy(y.raw(), gone, y.bytes());
  });
  expect_fault("copying to 132 bytes at byte 0 of an allocation of 128", [](EmulatedCudaDevice& device) {
    const std::vector<float> host(33);
    device.copy(floats(device, 32).raw(), host.data(), 132);
  });
  expect_fault("waits for event 7, never recorded",
               [](EmulatedCudaDevice& device) { device.stream().wait(7); });
}

TEST(Device, CopiesToAndFromItsPeers) {
  EmulatedCudaDevice other({.ordinal = 1}, 1);
  const std::vector<float> numbers{1, 2, 3};
  const Tensor theirs = Tensor::from_host(numbers.data(), {3}, DType::f32, other);
  expect_right([&](EmulatedCudaDevice& device) {
    const int waits = device.host_waits();
    const Tensor mine = floats(device, 3);
    device.copy(mine.raw(), theirs.raw(), mine.bytes());
    EXPECT_EQ(emulation::on_host(mine), numbers);
    const Tensor back = floats(other, 3);
    device.copy(back.raw(), mine.raw(), mine.bytes());
    EXPECT_EQ(device.host_waits(), waits + 1) << "for the copy to the host alone";
    EXPECT_EQ(emulation::on_host(back), numbers);
  });
}

TEST(Device, WrongUseOfAPeersMemoryIsReported) {
  EmulatedCudaDevice other({.ordinal = 1}, 1);
  const Tensor theirs = floats(other, 32);
  expect_fault("a kernel is given memory of another device", [&](EmulatedCudaDevice& device) {
    launch(device.stream(), add_one, Grid{1, 32}, theirs.data<float>(), floats(device, 32).data<float>());
  });
  expect_fault("copying from 132 bytes at byte 0 of another device's allocation of 128",
               [&](EmulatedCudaDevice& device) { device.copy(floats(device, 33).raw(), theirs.raw(), 132); });
  expect_fault("copying to 4 bytes at byte 128 of another device's allocation of 128",
               [&](EmulatedCudaDevice& device) {
                 device.copy(theirs.data<float>() + 32, floats(device, 32).raw(), 4);
               });
  expect_fault("copying from memory that another device has released", [&](EmulatedCudaDevice& device) {
    const float* gone = floats(other, 32).data<float>();
    device.copy(floats(device, 32).raw(), gone, 128);
  });
}

// Ranks are threads: all make and release memory, and copy, at once.
TEST(Device, PeersOfSeveralThreadsCopyAtOnce) {
  EmulatedCudaDevice source({.ordinal = 9}, 1);
  const std::vector<float> numbers(100, 7);
  const Tensor theirs = Tensor::from_host(numbers.data(), {100}, DType::f32, source);
  const auto rank = [&](int ordinal) {
    EmulatedCudaDevice device({.ordinal = ordinal}, 1);
    for (int round = 0; round < 200; ++round) {
      const Tensor mine = floats(device, 100);
      device.copy(mine.raw(), theirs.raw(), mine.bytes());
      EXPECT_EQ(emulation::on_host(mine), numbers);
    }
  };
  std::vector<std::jthread> ranks;
  for (int ordinal = 0; ordinal < 3; ++ordinal) ranks.emplace_back(rank, ordinal);
}

TEST(Device, FillsMemoryWithNaN) {
  EmulatedCudaDevice device({}, 0);
  EXPECT_TRUE(std::isnan(emulation::on_host(Tensor::empty({3}, DType::f32, device))[2]));
}

}  // namespace
}  // namespace tessera::cuda
