#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/autograd/tape.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/router.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

Array softmax_rows(const Array& logits, std::size_t experts) {
  Array p = logits;
  for (std::size_t row = 0; row < p.size(); row += experts) {
    const double top = *std::max_element(p.begin() + static_cast<std::ptrdiff_t>(row),
                                         p.begin() + static_cast<std::ptrdiff_t>(row + experts));
    double total = 0;
    for (std::size_t e = row; e < row + experts; ++e) total += p[e] = std::exp(p[e] - top);
    for (std::size_t e = row; e < row + experts; ++e) p[e] /= total;
  }
  return p;
}

OpCase router_logits_case() {
  return {.name = "router_logits",
          .inputs = {{"x", {19, 13}}},
          .parameters = {{"weight", {5, 13}}},
          .op = [](Inputs x, Weights w) { return Tensors{router_logits(x[0], *w[0])}; },
          .reference =
              [](Values v) {
                Array y(19 * 5);
                for (std::size_t t = 0; t < 19; ++t)
                  for (std::size_t e = 0; e < 5; ++e)
                    for (std::size_t i = 0; i < 13; ++i) y[t * 5 + e] += v[0][t * 13 + i] * v[1][e * 13 + i];
                return Arrays{y};
              },
          .terms = 19,
          .roundings = 1};
}

// Choices are given, as finite differences would otherwise cross from one expert to another.
OpCase gates_case(const std::string& name, bool normalize) {
  constexpr std::size_t tokens = 23;
  constexpr std::size_t experts = 6;
  constexpr std::size_t k = 2;
  std::vector<std::int32_t> chosen;
  for (std::size_t t = 0; t < tokens; ++t) {
    chosen.push_back(static_cast<std::int32_t>(t % experts));
    chosen.push_back(static_cast<std::int32_t>((t * 3 + 1) % experts));
    if (chosen.back() == chosen[2 * t]) chosen.back() = static_cast<std::int32_t>((t + 2) % experts);
  }
  return {
      .name = name,
      .inputs = {{.name = "logits", .shape = {tokens, experts}, .scale = 1.5, .always_f32 = true}},
      .parameters = {},
      .op =
          [=](Inputs x, Weights) {
            const Tensor indices = Tensor::from_host(chosen.data(), {tokens, k}, DType::i32, x[0].device());
            const Routing routing = route(x[0], {k, normalize, {}}, indices);
            return Tensors{route_gates(x[0], routing, normalize, {}, {})};
          },
      .reference =
          [=](Values v) {
            const Array p = softmax_rows(v[0], experts);
            Array gates;
            for (std::size_t t = 0; t < tokens; ++t) {
              const double a = p[t * experts + static_cast<std::size_t>(chosen[2 * t])];
              const double b = p[t * experts + static_cast<std::size_t>(chosen[2 * t + 1])];
              gates.push_back(normalize ? a / (a + b) : a);
              gates.push_back(normalize ? b / (a + b) : b);
            }
            return Arrays{gates};
          },
      .terms = 6};
}

// The balance term's gradient with respect to p enters in backward only: the sum Σ p × balance, whose value
// the op gives, has it as its derivative.
OpCase balance_case() {
  constexpr std::int64_t tokens = 12;
  constexpr std::int64_t experts = 4;
  std::vector<std::int32_t> chosen;
  for (std::int32_t t = 0; t < tokens; ++t) chosen.push_back(static_cast<std::int32_t>(t * 5 % experts));
  // Tokens 2 … of rows of 5: three rows are touched.
  const TokenRows rows{2, 5};
  const auto counts = [=] {
    Array table(3 * experts);
    for (std::int32_t t = 0; t < tokens; ++t)
      table[static_cast<std::size_t>((2 + t) / 5 * experts + t * 5 % experts)] += 1;
    return table;
  };
  return {.name = "balance",
          .inputs = {{.name = "logits", .shape = {tokens, experts}, .scale = 1.5, .always_f32 = true}},
          .parameters = {},
          .op =
              [=](Inputs x, Weights) {
                Device& device = x[0].device();
                const Tensor indices = Tensor::from_host(chosen.data(), {tokens, 1}, DType::i32, device);
                Tensor balance = Tensor::zeros({3, experts}, DType::f32, device);
                count_choices_kernel()({indices, rows, balance}, device);
                const Routing routing = route(x[0], {1, false, {}}, indices);
                Tensor sum = Tensor::zeros({1}, DType::f64, device);
                balance_sum_kernel()({routing.probs, balance, rows, sum}, device);
                const Tensor gates = route_gates(x[0], routing, false, balance, rows);
                if (!needs_record(x, false)) return Tensors{sum};
                Tensor* outputs[] = {&sum};
                // The gates get no gradient of their own; the case's cotangent of the sum is 1.
                record("balance_sum", std::span(&gates, 1), outputs,
                       [shape = gates.shape(), &device](std::span<const Tensor>, const BackwardContext&) {
                         return Tensors{Tensor::zeros(shape, DType::f32, device)};
                       });
                return Tensors{sum};
              },
          .reference =
              [=](Values v) {
                const Array p = softmax_rows(v[0], experts);
                const Array table = counts();
                double total = 0;
                for (std::size_t t = 0; t < tokens; ++t)
                  for (std::size_t e = 0; e < experts; ++e)
                    total += p[t * experts + e] * table[(2 + t) / 5 * experts + e];
                return Arrays{{total}};
              },
          .terms = 48,
          .unit_cotangents = true};
}

// Slots of 11 tokens to 4 experts, of which one gets none.
SlotOrder some_slots(Device& device) {
  std::vector<std::int32_t> experts;
  for (std::int32_t s = 0; s < 22; ++s)
    experts.push_back(std::array{0, 3, 1, 3, 0}[static_cast<std::size_t>(s % 5)]);
  return sort_slots(Tensor::from_host(experts.data(), {11, 2}, DType::i32, device), 4);
}

OpCase spread_case() {
  return {.name = "spread_rows",
          .inputs = {{"x", {11, 7}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                // Sorted and put back in order of slots: what a reference can say without sorting.
                const SlotOrder slots = some_slots(x[0].device());
                return Tensors{permute_rows(spread_rows(x[0], slots), slots.inverse, slots.order)};
              },
          .reference =
              [](Values v) {
                Array rows;
                for (std::size_t slot = 0; slot < 22; ++slot)
                  for (std::size_t i = 0; i < 7; ++i) rows.push_back(v[0][slot / 2 * 7 + i]);
                return Arrays{rows};
              },
          .terms = 2,
          .roundings = 1};
}

OpCase combine_case() {
  return {.name = "combine_rows",
          .inputs = {{"rows", {22, 7}}, {.name = "gates", .shape = {11, 2}, .always_f32 = true}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                const SlotOrder slots = some_slots(x[0].device());
                const Tensor sorted = permute_rows(x[0], slots.order, slots.inverse);
                return Tensors{combine_rows(sorted, x[1], slots)};
              },
          .reference =
              [](Values v) {
                Array out(11 * 7);
                for (std::size_t slot = 0; slot < 22; ++slot)
                  for (std::size_t i = 0; i < 7; ++i)
                    out[slot / 2 * 7 + i] += v[1][slot] * v[0][slot * 7 + i];
                return Arrays{out};
              },
          .terms = 7,
          .roundings = 1};
}

OpCase grouped_case(const std::string& name, const std::vector<std::int32_t>& offsets, std::int64_t in,
                    std::int64_t out, int samples) {
  const auto groups = static_cast<std::int64_t>(offsets.size()) - 1;
  return {.name = name,
          .inputs = {{"x", {offsets.back(), in}}},
          .parameters = {{"weight", {groups * out, in}}},
          .op =
              [=](Inputs x, Weights w) {
                std::vector<std::int32_t> counts;
                for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
                  counts.push_back(offsets[g + 1] - offsets[g]);
                Device& device = x[0].device();
                const Tensor begins = Tensor::empty({groups + 1}, DType::i32, device);
                count_offsets_kernel()(
                    {Tensor::from_host(counts.data(), {groups}, DType::i32, device), begins}, device);
                return Tensors{grouped_linear(x[0], *w[0], begins)};
              },
          .reference =
              [=](Values v) {
                const auto k = static_cast<std::size_t>(in);
                const auto n = static_cast<std::size_t>(out);
                Array y(static_cast<std::size_t>(offsets.back()) * n);
                for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
                  for (auto row = static_cast<std::size_t>(offsets[g]);
                       row < static_cast<std::size_t>(offsets[g + 1]); ++row)
                    for (std::size_t j = 0; j < n; ++j)
                      for (std::size_t i = 0; i < k; ++i)
                        y[row * n + j] += v[0][row * k + i] * v[1][(g * n + j) * k + i];
                return Arrays{y};
              },
          .terms = static_cast<double>(std::max<std::int64_t>({in, out, offsets.back()})),
          .samples = samples};
}

}  // namespace

std::vector<OpCase> expert_cases() {
  return {router_logits_case(),
          gates_case("route_gates", false),
          gates_case("route_gates_normalized", true),
          balance_case(),
          spread_case(),
          combine_case(),
          grouped_case("grouped_linear", {0, 5, 5, 18, 19}, 11, 6, 32),
          grouped_case("grouped_linear_many_tiles", {0, 300, 301}, 9, 521, 4)};
}

}  // namespace tessera::testing_ops
