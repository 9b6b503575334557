#include <algorithm>

#include "core/ops/dispatch.h"
#include "core/ops/expert_load.h"
#include "core/ops/router.h"
#include "core/ops/row_layout.h"
#include "launch/bench/tensors.h"

namespace tessera::bench {
namespace {

// Where tokens go: the k experts of each follow one another, from expert to expert round.
struct Slots {
  Tensor indices;                 // I32 [T, k]
  Tensor order, inverse, counts;  // as in SortSlotsArgs
};

struct Routed {
  std::int64_t tokens, seq_len, hidden, experts, k;

  std::int64_t slots() const { return tokens * k; }
  TokenRows rows() const { return {0, seq_len}; }
  Tensor scores(Device& on) const { return normal({tokens, experts}, DType::f32, on); }
  Tensor balance(Device& on) const { return normal({tokens / seq_len, experts}, DType::f32, on); }
  Tensor gates(Device& on) const { return normal({tokens, k}, DType::f32, on); }
  Tensor activations(std::int64_t count, Device& on) const {
    return normal({count, hidden}, DType::bf16, on);
  }
  Slots sorted(Device& on) const {
    const Tensor any = counting_ids(slots(), slots(), on);
    Slots all{counting_ids(slots(), experts, on).view({tokens, k}), any, counting_ids(slots(), slots(), on),
              counting_ids(experts, experts, on)};
    sort_slots_kernel()({all.indices, all.order, all.inverse, all.counts}, on);
    return all;
  }
};

void add_routing(const Routed& r, std::vector<MakeCase>& cases) {
  cases.emplace_back([r](Device& on) {
    const Tensor logits = r.scores(on), probs = r.scores(on), gates = r.gates(on);
    const Tensor indices = r.sorted(on).indices;
    return memory_case(route_forward_kernel(), {logits, {}, probs, indices, gates, true, true}, logits,
                       bytes_of({logits, probs, indices, gates}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor probs = r.scores(on), dlogits = r.scores(on), dgates = r.gates(on), balance = r.balance(on);
    const Tensor indices = r.sorted(on).indices;
    return memory_case(route_backward_kernel(), {probs, indices, dgates, balance, r.rows(), dlogits, true},
                       probs, bytes_of({probs, indices, dgates, balance, dlogits}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor indices = r.sorted(on).indices, counts = r.balance(on);
    return memory_case(count_choices_kernel(), {indices, r.rows(), counts}, indices,
                       bytes_of({indices, counts, counts}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor probs = r.scores(on), balance = r.balance(on), out = constant(0, {1}, DType::f64, on);
    return memory_case(balance_sum_kernel(), {probs, balance, r.rows(), out}, probs,
                       bytes_of({probs, balance, out}));
  });
}

void add_dispatch(const Routed& r, std::vector<MakeCase>& cases) {
  cases.emplace_back([r](Device& on) {
    const Slots s = r.sorted(on);
    return memory_case(sort_slots_kernel(), {s.indices, s.order, s.inverse, s.counts}, s.indices,
                       bytes_of({s.indices, s.order, s.inverse, s.counts}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor counts = r.sorted(on).counts, offsets = counting_ids(r.experts + 1, r.experts + 1, on);
    return memory_case(count_offsets_kernel(), {counts, offsets}, counts, bytes_of({counts, offsets}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor in = r.activations(r.tokens, on), out = r.activations(r.slots(), on);
    const Tensor order = r.sorted(on).order;
    return memory_case(gather_rows_kernel(), {in, order, out, {}, r.k}, out, bytes_of({in, order, out}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor rows = r.activations(r.slots(), on), out = r.activations(r.tokens, on);
    const Tensor inverse = r.sorted(on).inverse, scale = r.gates(on).view({r.slots()});
    return memory_case(combine_rows_kernel(), {rows, inverse, scale, out}, rows,
                       bytes_of({rows, inverse, scale, out}));
  });
  cases.emplace_back([r](Device& on) {
    const Tensor rows = r.activations(r.slots(), on), with = r.activations(r.tokens, on);
    const Tensor inverse = r.sorted(on).inverse, out = r.gates(on).view({r.slots()});
    return memory_case(row_dots_kernel(), {rows, inverse, with, out}, rows,
                       bytes_of({rows, inverse, with, out}));
  });
}

// On one of eight ranks that share the experts: an eighth of each rank's rows come, in buffers of twice that.
void add_layout(const Routed& r, std::vector<MakeCase>& cases) {
  cases.push_back([r](Device& on) {
    constexpr std::int64_t ranks = 8;
    const std::int64_t here = std::max<std::int64_t>(1, r.experts / ranks);
    const std::int64_t most = 2 * r.slots() / ranks;
    const Tensor counts = counting_ids(ranks * here, r.slots() / ranks / here * 2, on).view({ranks, here, 1});
    const Tensor offsets = counting_ids(here + 1, here + 1, on), over = constant(0, {1}, DType::f64, on);
    const Tensor to_slot = counting_ids(ranks * most, ranks * most, on);
    const Tensor from_slot = counting_ids(ranks * most, ranks * most, on);
    return memory_case(lay_out_rows_kernel(), {counts, offsets, to_slot, from_slot, over}, to_slot,
                       bytes_of({counts, offsets, to_slot, from_slot, over}));
  });
}

// Of 48 layers and 64 ranks.
void add_loads(const Routed& r, std::vector<MakeCase>& cases) {
  constexpr std::int64_t layers = 48, ranks = 64;
  const auto number = [](const Shape& shape, Device& on) { return constant(1, shape, DType::f64, on); };
  cases.push_back([r, number](Device& on) {
    const Tensor parts = number({ranks, layers, 2 + r.experts}, on), slots = number({layers, r.experts}, on);
    const Tensor balance = number({layers}, on), over = number({layers}, on);
    return memory_case(combine_loads_kernel(), {parts, balance, over, slots}, parts,
                       bytes_of({parts, balance, over, slots}));
  });
  cases.push_back([r, number](Device& on) {
    const Tensor slots = number({layers, r.experts}, on), out = normal({1, r.experts}, DType::f32, on);
    return memory_case(global_balance_kernel(), {slots, out, 0.1, 1e6}, slots, bytes_of({slots, out}));
  });
  cases.push_back([r, number](Device& on) {
    const Tensor slots = number({r.experts}, on), updated = number({1}, on);
    const Tensor bias = normal({r.experts}, DType::f32, on);
    return memory_case(move_biases_kernel(), {slots, updated, bias, 1e-3F}, slots,
                       bytes_of({slots, updated, bias, bias}));
  });
}

}  // namespace

std::vector<MakeCase> expert_cases(const Sizes& sizes) {
  const ModelSizes& model = sizes.models.front();
  const Routed routed{model.tokens, model.seq_len, model.hidden, sizes.experts.experts, sizes.experts.chosen};
  std::vector<MakeCase> cases;
  add_routing(routed, cases);
  add_dispatch(routed, cases);
  add_layout(routed, cases);
  add_loads(routed, cases);
  return cases;
}

}  // namespace tessera::bench
