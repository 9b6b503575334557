// Buffers of a fixed size between ranks with experts, and loads of experts.
#include <algorithm>
#include <cmath>

#include "core/ops/dispatch.h"
#include "core/ops/expert_load.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/router.h"
#include "core/ops/row_layout.h"
#include "tests/kernels/op_case.h"

namespace tessera::testing_ops {
namespace {

struct Layout {
  std::int64_t sources, groups, parts, capacity;
  std::vector<std::int32_t> counts;

  std::int64_t slots() const { return sources * capacity; }
  RowLayout on(Device& device, const Tensor& over) const {
    return lay_out_rows(Tensor::from_host(counts.data(), {sources, groups, parts}, DType::i32, device),
                        capacity, over);
  }
};

// Every row by name: of which source it is, the how many'th.
struct Places {
  Array offsets, to_slot, from_slot;
  double largest = 0;
};
Places places_of(const Layout& l) {
  Places p;
  p.to_slot.assign(static_cast<std::size_t>(l.slots()), -1);
  p.from_slot.assign(static_cast<std::size_t>(l.slots()), -1);
  std::size_t row = 0;
  std::vector<std::int64_t> group_of;  // of the rows of one source, in order
  std::vector<std::vector<std::int64_t>> sources;
  for (std::int64_t s = 0; s < l.sources; ++s) {
    group_of.clear();
    for (std::int64_t i = 0; i < l.groups * l.parts; ++i)
      group_of.insert(
          group_of.end(),
          static_cast<std::size_t>(l.counts[static_cast<std::size_t>(s * l.groups * l.parts + i)]),
          i / l.parts);
    p.largest = std::max(p.largest, static_cast<double>(group_of.size()));
    group_of.resize(std::min(group_of.size(), static_cast<std::size_t>(l.capacity)));
    sources.push_back(group_of);
  }
  for (std::int64_t x = 0; x < l.groups; ++x) {
    p.offsets.push_back(static_cast<double>(row));
    for (std::size_t s = 0; s < sources.size(); ++s)
      for (std::size_t j = 0; j < sources[s].size(); ++j) {
        if (sources[s][j] != x) continue;
        const std::size_t slot = s * static_cast<std::size_t>(l.capacity) + j;
        p.to_slot[row] = static_cast<double>(slot);
        p.from_slot[slot] = static_cast<double>(row++);
      }
  }
  p.offsets.push_back(static_cast<double>(row));
  return p;
}

// `before`: what `over` held.
OpCase layout_case(const std::string& name, const Layout& layout, double before) {
  return {
      .name = name,
      .inputs = {{"unused", {1}}},
      .parameters = {},
      .op =
          [=](Inputs x, Weights) {
            const Tensor over = Tensor::from_host(&before, {1}, DType::f64, x[0].device());
            const RowLayout made = layout.on(x[0].device(), over);
            return Tensors{made.offsets, made.to_slot, made.from_slot, over};
          },
      .reference =
          [=](Values) {
            const Places p = places_of(layout);
            const bool fits = p.largest <= static_cast<double>(layout.capacity);
            return Arrays{p.offsets, p.to_slot, p.from_slot, {fits ? before : std::max(before, p.largest)}};
          },
      .bf16 = false,
      .differentiable = false};
}

// More pairs of source and group than a block has threads, some of them without rows.
Layout many() {
  Layout layout{24, 16, 1, 26, {}};
  for (std::int32_t i = 0; i < 24 * 16; ++i) layout.counts.push_back(i % 7 == 3 ? 0 : i * 5 % 4);
  return layout;
}

// Rows in slots, those of a group times its matrix, and back: what experts on another rank do. Empty slots
// hold numbers, which must reach nothing, and come back as zeros; rows beyond the last group are in no
// gradient.
OpCase padded_case() {
  constexpr std::int64_t in = 5, out = 4;
  const Layout layout{3, 2, 1, 6, {2, 3, 0, 6, 4, 0}};
  return {.name = "grouped_linear_of_padded_rows",
          .inputs = {{"x", {layout.slots(), in}}},
          .parameters = {{"weight", {2 * out, in}}},
          .op =
              [=](Inputs x, Weights w) {
                const Tensor over = Tensor::zeros({1}, DType::f64, x[0].device());
                const RowLayout at = layout.on(x[0].device(), over);
                const Tensor rows = permute_rows(x[0], at.to_slot, at.from_slot);
                const Tensor made = grouped_linear(rows, *w[0], at.offsets);
                return Tensors{permute_rows(made, at.from_slot, at.to_slot)};
              },
          .reference =
              [=](Values v) {
                const Places p = places_of(layout);
                Array y(static_cast<std::size_t>(layout.slots() * out));
                for (std::size_t slot = 0; slot < p.from_slot.size(); ++slot) {
                  if (p.from_slot[slot] < 0) continue;
                  const std::size_t group = p.from_slot[slot] < p.offsets[1] ? 0 : 1;
                  for (std::size_t j = 0; j < out; ++j)
                    for (std::size_t i = 0; i < in; ++i)
                      y[slot * out + j] += v[0][slot * in + i] * v[1][(group * out + j) * in + i];
                }
                return Arrays{y};
              },
          .terms = 15};
}

// An index of −1 is a row of zeros, not the row before the first: here there is one.
OpCase gather_case() {
  constexpr std::int64_t n = 8;
  return {.name = "gather_rows_of_none",
          .inputs = {{"x", {4, n}}, {.name = "scale", .shape = {3}, .always_f32 = true}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                Device& device = x[0].device();
                const std::int32_t at[] = {2, -1, 0, -1};
                const Tensor index = Tensor::from_host(at, {4}, DType::i32, device);
                const Tensor plain = Tensor::empty({4, n}, x[0].dtype(), device);
                const Tensor scaled = Tensor::empty({4, n}, x[0].dtype(), device);
                gather_rows_kernel()({x[0].narrow(0, 1, 3), index, plain, {}, 1}, device);
                gather_rows_kernel()({x[0].narrow(0, 1, 3), index, scaled, x[1], 1}, device);
                return Tensors{plain, scaled};
              },
          .reference =
              [](Values v) {
                Array plain(4 * n), scaled(4 * n);
                for (std::size_t i = 0; i < n; ++i) {
                  plain[i] = v[0][3 * n + i];
                  plain[2 * n + i] = v[0][n + i];
                  scaled[i] = plain[i] * v[1][2];
                  scaled[2 * n + i] = plain[2 * n + i] * v[1][0];
                }
                return Arrays{plain, scaled};
              },
          .differentiable = false};
}

// Two ranks' loads of three layers with four experts, and what is done by them. Layer 1 lacked room.
OpCase loads_case() {
  constexpr std::int64_t layers = 3, experts = 4;
  const auto part = [=](std::size_t rank, std::size_t layer, std::size_t column) {
    if (column == 1) return layer == 1 ? 70.0 - 9.0 * static_cast<double>(rank) : 0.0;
    if (column == 0) return 0.25 * static_cast<double>(1 + rank + layer);
    return static_cast<double>((rank * 5 + layer * 3 + column * column) % 8);
  };
  return {
      .name = "expert_loads",
      .inputs = {{.name = "bias", .shape = {experts}, .always_f32 = true}},
      .parameters = {},
      .op =
          [=](Inputs x, Weights) {
            Device& device = x[0].device();
            Array all;
            for (std::size_t i = 0; i < 2 * layers * (2 + experts); ++i)
              all.push_back(
                  part(i / (layers * (2 + experts)), i / (2 + experts) % layers, i % (2 + experts)));
            const Tensor parts = Tensor::from_host(all.data(), {2, layers, 2 + experts}, DType::f64, device);
            const Tensor balance = Tensor::empty({layers}, DType::f64, device);
            const Tensor over = Tensor::empty({layers}, DType::f64, device);
            const Tensor slots = Tensor::empty({layers, experts}, DType::f64, device);
            combine_loads_kernel()({parts, balance, over, slots}, device);
            const Tensor gradient = Tensor::empty({1, experts}, DType::f32, device);
            global_balance_kernel()({slots, gradient, 0.5, 24}, device);
            const double updated[] = {0, 1};
            const Tensor is = Tensor::from_host(updated, {2}, DType::f64, device);
            const Tensor kept = Tensor::empty({experts}, DType::f32, device);
            const Tensor moved = Tensor::empty({experts}, DType::f32, device);
            Tensor(kept).copy_from(x[0].detach());
            Tensor(moved).copy_from(x[0].detach());
            const Tensor of_layer = slots.narrow(0, 2, 1).view({experts});
            move_biases_kernel()({of_layer, is.narrow(0, 0, 1), kept, 0.125F}, device);
            move_biases_kernel()({of_layer, is.narrow(0, 1, 1), moved, 0.125F}, device);
            return Tensors{balance, over, slots, gradient, kept, moved};
          },
      .reference =
          [=](Values v) {
            Array balance, over, slots, gradient(experts), moved = v[0];
            for (std::size_t layer = 0; layer < layers; ++layer) {
              balance.push_back(part(0, layer, 0) + part(1, layer, 0));
              over.push_back(std::max(part(0, layer, 1), part(1, layer, 1)));
              for (std::size_t e = 0; e < experts; ++e) {
                slots.push_back(part(0, layer, 2 + e) + part(1, layer, 2 + e));
                gradient[e] += 0.5 * slots.back() / 24 / 24;
              }
            }
            double mean = 0;
            for (std::size_t e = 0; e < experts; ++e) mean += slots[2 * experts + e] / experts;
            for (std::size_t e = 0; e < experts; ++e) {
              const double slot = slots[2 * experts + e];
              moved[e] += slot < mean ? 0.125 : slot > mean ? -0.125 : 0;
            }
            return Arrays{balance, over, slots, gradient, v[0], moved};
          },
      .terms = 6,
      .bf16 = false,
      .differentiable = false};
}

// As a mixture counts, in double, on top of what was there.
OpCase count_case() {
  return {.name = "count_choices_in_double",
          .inputs = {{"unused", {1}}},
          .parameters = {},
          .op =
              [](Inputs x, Weights) {
                Device& device = x[0].device();
                std::vector<std::int32_t> chosen;
                for (std::int32_t i = 0; i < 120; ++i) chosen.push_back(i * i % 40);
                const double before = 16777217;  // fp32 has no such number
                const Array counts(40, before);
                const Tensor count = Tensor::from_host(counts.data(), {1, 40}, DType::f64, device);
                count_choices_kernel()(
                    {Tensor::from_host(chosen.data(), {60, 2}, DType::i32, device), {0, 60}, count}, device);
                return Tensors{count};
              },
          .reference =
              [](Values) {
                Array counts(40, 16777217);
                for (std::size_t i = 0; i < 120; ++i) counts[i * i % 40] += 1;
                return Arrays{counts};
              },
          .terms = 0,
          .bf16 = false,
          .differentiable = false};
}

}  // namespace

std::vector<OpCase> row_layout_cases() {
  return {layout_case("lay_out_rows", {3, 2, 2, 9, {1, 2, 3, 0, 0, 0, 0, 0, 5, 1, 0, 3}}, 4),
          // The second source has 11 rows for its 6 slots, the third as many as slots.
          layout_case("lay_out_rows_over", {3, 2, 1, 6, {2, 1, 4, 7, 0, 6}}, 10),
          layout_case("lay_out_rows_of_one_group", {4, 1, 3, 7, {1, 0, 2, 3, 3, 3, 0, 0, 0, 5, 0, 1}}, 99),
          layout_case("lay_out_rows_of_many", many(), 0), gather_case(), padded_case(), loads_case(),
          count_case()};
}

}  // namespace tessera::testing_ops
