#include "launch/estimate.h"

#include <chrono>

#include "core/autograd/tape.h"
#include "core/ops/linear.h"
#include "core/tensor/device.h"

namespace tessera {

std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const RunShape& shape) {
  const auto device = make_device(DeviceKind::meta);
  Model model(spec, *device, options);
  std::vector<Tensor> buffers;  // moments and further gradient buffers
  for (Parameter* parameter : model.parameters()) {
    parameter->bind_gradient(Tensor::empty(parameter->shape(), DType::f32, *device));
    for (std::int64_t i = 0; i < 1 + shape.gradient_buffers; ++i)
      buffers.push_back(Tensor::empty(parameter->shape(), DType::f32, *device));
  }
  const Shape rows{shape.micro_batch, shape.seq_len};
  const Tensor ids = Tensor::empty(rows, DType::i32, *device);
  const Tensor scale = Tensor::empty({1}, DType::f32, *device);
  const Tensor loss = model.loss({ids, ids, ids, ids}, scale);
  const Tensor gradient = Tensor::empty(loss.shape(), loss.dtype(), *device);
  backward(std::span(&loss, 1), std::span(&gradient, 1));
  return device->memory().peak;
}

double measure_flops(Device& device, DType compute, std::int64_t hidden_size) {
  const std::int64_t rows = 512;
  const NoGrad no_grad;
  Parameter weight(plain_parameter("probe", {hidden_size, hidden_size}, {Initializer::Kind::constant, 0.0F}),
                   compute, device);
  weight.initialize(0);
  const Tensor x = Tensor::zeros({rows, hidden_size}, compute, device);
  linear(x, weight, nullptr);  // warms up
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double seconds = 0;
  int rounds = 0;
  do {
    linear(x, weight, nullptr);
    device.stream().synchronize();
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  } while (++rounds < 1000 && seconds < 0.03);
  return rounds * 2.0 * static_cast<double>(rows * hidden_size * hidden_size) / seconds;
}

}  // namespace tessera
