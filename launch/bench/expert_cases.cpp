#include "core/ops/dispatch.h"
#include "core/ops/router.h"
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
  cases.push_back([r](Device& on) {
    const Tensor logits = r.scores(on), probs = r.scores(on), gates = r.gates(on);
    const Tensor indices = r.sorted(on).indices;
    return memory_case(route_forward_kernel(), {logits, {}, probs, indices, gates, true, true}, logits,
                       bytes_of({logits, probs, indices, gates}));
  });
  cases.push_back([r](Device& on) {
    const Tensor probs = r.scores(on), dlogits = r.scores(on), dgates = r.gates(on), balance = r.balance(on);
    const Tensor indices = r.sorted(on).indices;
    return memory_case(route_backward_kernel(), {probs, indices, dgates, balance, r.rows(), dlogits, true},
                       probs, bytes_of({probs, indices, dgates, balance, dlogits}));
  });
  cases.push_back([r](Device& on) {
    const Tensor indices = r.sorted(on).indices, counts = r.balance(on);
    return memory_case(count_choices_kernel(), {indices, r.rows(), counts}, indices,
                       bytes_of({indices, counts, counts}));
  });
  cases.push_back([r](Device& on) {
    const Tensor probs = r.scores(on), balance = r.balance(on), out = constant(0, {1}, DType::f64, on);
    return memory_case(balance_sum_kernel(), {probs, balance, r.rows(), out}, probs,
                       bytes_of({probs, balance, out}));
  });
}

void add_dispatch(const Routed& r, std::vector<MakeCase>& cases) {
  cases.push_back([r](Device& on) {
    const Slots s = r.sorted(on);
    return memory_case(sort_slots_kernel(), {s.indices, s.order, s.inverse, s.counts}, s.indices,
                       bytes_of({s.indices, s.order, s.inverse, s.counts}));
  });
  cases.push_back([r](Device& on) {
    const Tensor counts = r.sorted(on).counts, offsets = counting_ids(r.experts + 1, r.experts + 1, on);
    return memory_case(count_offsets_kernel(), {counts, offsets}, counts, bytes_of({counts, offsets}));
  });
  cases.push_back([r](Device& on) {
    const Tensor in = r.activations(r.tokens, on), out = r.activations(r.slots(), on);
    const Tensor order = r.sorted(on).order;
    return memory_case(gather_rows_kernel(), {in, order, out, {}, r.k}, out, bytes_of({in, order, out}));
  });
  cases.push_back([r](Device& on) {
    const Tensor rows = r.activations(r.slots(), on), out = r.activations(r.tokens, on);
    const Tensor inverse = r.sorted(on).inverse, scale = r.gates(on).view({r.slots()});
    return memory_case(combine_rows_kernel(), {rows, inverse, scale, out}, rows,
                       bytes_of({rows, inverse, scale, out}));
  });
  cases.push_back([r](Device& on) {
    const Tensor rows = r.activations(r.slots(), on), with = r.activations(r.tokens, on);
    const Tensor inverse = r.sorted(on).inverse, out = r.gates(on).view({r.slots()});
    return memory_case(row_dots_kernel(), {rows, inverse, with, out}, rows,
                       bytes_of({rows, inverse, with, out}));
  });
}

}  // namespace

std::vector<MakeCase> expert_cases(const Sizes& sizes) {
  const ModelSizes& model = sizes.models.front();
  const Routed routed{model.tokens, model.seq_len, model.hidden, sizes.experts.experts, sizes.experts.chosen};
  std::vector<MakeCase> cases;
  add_routing(routed, cases);
  add_dispatch(routed, cases);
  return cases;
}

}  // namespace tessera::bench
