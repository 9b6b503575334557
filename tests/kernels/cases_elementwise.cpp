#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/add.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"
#include "core/optim/adamw.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

OpCase add_case() {
  return {.name = "add",
          .inputs = {{"x", {3, 17, 5}}, {"y", {3, 17, 5}}},
          .parameters = {},
          .op = [](Inputs x, Weights) { return Tensors{add(x[0], x[1])}; },
          .reference =
              [](Values v) {
                Array out = v[0];
                for (std::size_t i = 0; i < out.size(); ++i) out[i] += v[1][i];
                return Arrays{out};
              },
          .roundings = 1};
}

// Large enough for several blocks of work, and one tensor feeding an op twice.
OpCase shared_case() {
  return {.name = "add_shared",
          .inputs = {{"x", {70001}}},
          .parameters = {},
          .op = [](Inputs x, Weights) { return Tensors{add(add(x[0], x[0]), x[0])}; },
          .reference =
              [](Values v) {
                Array out = v[0];
                for (double& value : out) value *= 3;
                return Arrays{out};
              },
          .roundings = 3,
          .samples = 8};
}

// Views of a matrix: the odd rows' middle columns, copied and then added once more.
OpCase strided_copy_case() {
  return {.name = "strided_copy",
          .inputs = {{"x", {6, 5, 9}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const Tensor rows = x[0].view({3, 2, 45}).narrow(1, 1, 1);  // of stride 90
                const Tensor part = rows.narrow(2, 7, 30);
                const Tensor out = contiguous_copy(part);
                add_view(part, out);
                return Tensors{out.detach()};
              },
          .reference =
              [](Values v) {
                Array out;
                for (std::size_t row = 0; row < 3; ++row)
                  for (std::size_t i = 0; i < 30; ++i) out.push_back(2 * v[0][row * 90 + 45 + 7 + i]);
                return Arrays{out};
              },
          .roundings = 1,
          .differentiable = false};
}

OpCase split_case() {
  return {.name = "split",
          .inputs = {{"x", {2, 35, 12}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                return split(x[0], {7, 4, 1});
              },
          .reference =
              [](Values v) {
                Arrays parts(3);
                for (std::size_t i = 0; i < v[0].size(); ++i) {
                  const std::size_t column = i % 12;
                  parts[column < 7 ? 0 : column < 11 ? 1 : 2].push_back(v[0][i]);
                }
                return parts;
              },
          .roundings = 0};
}

// A part that nothing uses counts as zeros.
OpCase split_unused_case() {
  OpCase test = split_case();
  test.name = "split_unused_part";
  test.op = [](Inputs x, Weights) {
    const Tensors parts = split(x[0], {7, 4, 1});
    return Tensors{parts[0], parts[2]};
  };
  test.reference = [whole = test.reference](Values v) {
    const Arrays parts = whole(v);
    return Arrays{parts[0], parts[2]};
  };
  return test;
}

OpCase swiglu_case() {
  return {.name = "swiglu",
          .inputs = {{.name = "x", .shape = {2, 19, 46}, .scale = 3}},
          .parameters = {},
          .op = [](Inputs x, Weights) { return Tensors{swiglu(x[0])}; },
          .reference =
              [](Values v) {
                Array out;
                for (std::size_t row = 0; row < 38; ++row)
                  for (std::size_t i = 0; i < 23; ++i) {
                    const double g = v[0][row * 46 + i];
                    out.push_back(g / (1 + std::exp(-g)) * v[0][row * 46 + 23 + i]);
                  }
                return Arrays{out};
              }};
}

OpCase convert_case() {
  return {.name = "convert",
          .inputs = {{.name = "x", .shape = {33, 1001}, .always_f32 = true}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const Tensor half = Tensor::empty(x[0].shape(), DType::bf16, x[0].device());
                const Tensor back = Tensor::empty(x[0].shape(), DType::f32, x[0].device());
                convert(x[0], half);
                convert(half, back);
                return Tensors{half, back};
              },
          .reference =
              [](Values v) {
                Array out = v[0];
                for (double& value : out)
                  value = static_cast<double>(static_cast<float>(bf16(static_cast<float>(value))));
                return Arrays{out, out};
              },
          .roundings = 0,
          .differentiable = false};
}

OpCase scale_case() {
  return {.name = "scale_and_add_into",
          .inputs = {{"x", {40009}}, {"y", {40009}}, {"factor", {1}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                scale(x[0], x[2]);
                add_into(x[0], x[1]);
                return Tensors{x[0]};
              },
          .reference =
              [](Values v) {
                Array out = v[0];
                for (std::size_t i = 0; i < out.size(); ++i) out[i] = out[i] * v[2][0] + v[1][i];
                return Arrays{out};
              },
          .bf16 = false,
          .differentiable = false};
}

// The formula of torch.optim.AdamW, at its third step.
OpCase adamw_case() {
  constexpr double lr = 0.01;
  constexpr double clip = 0.7;
  constexpr double beta1 = 0.9;
  constexpr double beta2 = 0.95;
  constexpr double decay = 0.1;
  static const double correction1 = 1 - std::pow(beta1, 3);
  static const double correction2 = std::sqrt(1 - std::pow(beta2, 3));
  return {.name = "adamw",
          .inputs = {{"p", {40003}},
                     {"g", {40003}},
                     {"m", {40003}},
                     {.name = "v", .shape = {40003}, .scale = 0.05, .offset = 1}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const AdamWScalars now{static_cast<float>(lr), static_cast<float>(clip),
                                       static_cast<float>(correction1), static_cast<float>(correction2)};
                const Tensor scalars = Tensor::from_host(&now, {4}, DType::f32, x[0].device());
                adamw_kernel()({x[0], x[1], x[2], x[3], scalars, static_cast<float>(beta1),
                                static_cast<float>(beta2), 1e-8F, static_cast<float>(decay)},
                               x[0].device());
                return Tensors{x[0], x[2], x[3]};
              },
          .reference =
              [](Values in) {
                Array p = in[0];
                Array m = in[2];
                Array v = in[3];
                for (std::size_t i = 0; i < p.size(); ++i) {
                  const double g = clip * in[1][i];
                  p[i] *= 1 - lr * decay;
                  m[i] = beta1 * m[i] + (1 - beta1) * g;
                  v[i] = beta2 * v[i] + (1 - beta2) * g * g;
                  p[i] -= lr * (m[i] / correction1) / (std::sqrt(v[i]) / correction2 + 1e-8);
                }
                return Arrays{p, m, v};
              },
          .bf16 = false,
          .differentiable = false};
}

// After two updates a third that clips, one that a loss that is not finite forbids, and one that another
// number does.
OpCase update_scalars_case() {
  constexpr double lr = 0.01;
  constexpr double most = 0.5;
  return {.name = "update_scalars",
          .inputs = {{"g", {100}}, {"l", {1}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                Device& device = x[0].device();
                const Tensor sums = Tensor::empty({2}, DType::f64, device);
                square_sums(x[0], 100, sums.narrow(0, 0, 1));
                square_sums(x[1], 1, sums.narrow(0, 1, 1));
                const double given[] = {lr, most, 2, std::numeric_limits<double>::infinity(), 0, 0, 7};
                const Tensor host = Tensor::from_host(given, {7}, DType::f64, device);
                const Tensor steps = host.narrow(0, 2, 1);
                const Tensor scalars = Tensor::empty({12}, DType::f32, device);
                const Tensor reports = Tensor::empty({9}, DType::f64, device);
                update_scalars_kernel()(
                    {sums.narrow(0, 1, 1), sums.narrow(0, 0, 1), host.narrow(0, 0, 2), steps,
                     scalars.narrow(0, 0, 4), reports.narrow(0, 0, 3), 0.9, 0.95, host.narrow(0, 4, 2)},
                    device);
                update_scalars_kernel()({host.narrow(0, 3, 1), sums.narrow(0, 0, 1), host.narrow(0, 0, 2),
                                         steps, scalars.narrow(0, 4, 4), reports.narrow(0, 3, 3), 0.9, 0.95},
                                        device);
                update_scalars_kernel()(
                    {sums.narrow(0, 1, 1), sums.narrow(0, 0, 1), host.narrow(0, 0, 2), steps,
                     scalars.narrow(0, 8, 4), reports.narrow(0, 6, 3), 0.9, 0.95, host.narrow(0, 4, 3)},
                    device);
                // A NaN has no place in a comparison: whether it is one. Nothing moves where it is.
                const Tensor nothing = Tensor::zeros({1}, DType::f32, device);
                const Tensor one = x[1].detach();
                const Tensor moment = Tensor::zeros({1}, DType::f32, device);
                for (const std::int64_t at : {4, 8})
                  adamw_kernel()(
                      {one, one, moment, nothing, scalars.narrow(0, at, 4), 0.9F, 0.95F, 1e-8F, 0.1F},
                      device);
                return Tensors{scalars.narrow(0, 0, 4),
                               reports.narrow(0, 0, 3),
                               steps,
                               reports.narrow(0, 5, 1),
                               reports.narrow(0, 6, 3),
                               one,
                               moment};
              },
          .reference =
              [](Values v) {
                double squares = 0;
                for (const double g : v[0]) squares += g * g;
                const double norm = std::sqrt(squares);
                return Arrays{{lr, std::min(1.0, most / (norm + 1e-6)), 1 - std::pow(0.9, 3),
                               std::sqrt(1 - std::pow(0.95, 3))},
                              {v[1][0] * v[1][0], norm, 1},
                              {3},
                              {0},
                              {v[1][0] * v[1][0], norm, 0},
                              {v[1][0]},
                              {0}};
              },
          .bf16 = false,
          .differentiable = false};
}

// Seven parts: a tree with a lopsided right half.
OpCase tree_sum_case() {
  OpCase test{.name = "tree_sum",
              .inputs = {},
              .parameters = {},
              .op =
                  [](Inputs x, Weights) {
                    const Tensor out = Tensor::empty(x[0].shape(), x[0].dtype(), x[0].device());
                    tree_sum(Tensors(x.begin(), x.end()), out);
                    return Tensors{out};
                  },
              .reference =
                  [](Values parts) {
                    Array out(parts[0].size());
                    for (const Array& part : parts)
                      for (std::size_t i = 0; i < out.size(); ++i) out[i] += part[i];
                    return Arrays{out};
                  },
              .terms = 7,
              .differentiable = false};
  for (int i = 0; i < 7; ++i) test.inputs.push_back({"part" + std::to_string(i), {1037}});
  return test;
}

// Blocks of 100, the last of 37.
OpCase square_sums_case() {
  return {.name = "square_sums",
          .inputs = {{"x", {1037}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const Tensor out = Tensor::empty({11}, DType::f64, x[0].device());
                square_sums(x[0], 100, out);
                return Tensors{out};
              },
          .reference =
              [](Values v) {
                Array out(11);
                for (std::size_t i = 0; i < v[0].size(); ++i) out[i / 100] += v[0][i] * v[0][i];
                return Arrays{out};
              },
          .bf16 = false,
          .differentiable = false};
}

// Squares' sums in blocks of one, then every third of them from the last on, by runs of 7; and the whole, by
// runs of 2.
OpCase sum_runs_case() {
  return {.name = "sum_runs",
          .inputs = {{"x", {100}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const Tensor squares = Tensor::empty({100}, DType::f64, x[0].device());
                square_sums(x[0], 1, squares);
                std::vector<std::int32_t> order;
                for (std::int32_t i = 99; i >= 0; i -= 3) order.push_back(i);
                const Tensor places = Tensor::from_host(
                    order.data(), {static_cast<std::int64_t>(order.size())}, DType::i32, x[0].device());
                return Tensors{sum_runs(squares, places, 7), sum_by_runs(squares, 2)};
              },
          .reference =
              [](Values v) {
                Array runs(5);
                Array whole(1);
                for (std::size_t i = 0; i < 34; ++i) runs[i / 7] += v[0][99 - 3 * i] * v[0][99 - 3 * i];
                for (const double x : v[0]) whole[0] += x * x;
                return Arrays{runs, whole};
              },
          .bf16 = false,
          .differentiable = false};
}

}  // namespace

std::vector<OpCase> elementwise_cases() {
  return {add_case(),      shared_case(),      split_case(),   strided_copy_case(), split_unused_case(),
          swiglu_case(),   convert_case(),     scale_case(),   adamw_case(),        update_scalars_case(),
          tree_sum_case(), square_sums_case(), sum_runs_case()};
}

}  // namespace tessera::testing_ops
