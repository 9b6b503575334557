#include "core/nn/moe.h"

#include <utility>
#include <vector>

#include "core/autograd/tape.h"
#include "core/base/mutant.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

class LocalDispatcher : public TokenDispatcher {
 public:
  std::unique_ptr<Trip> plan(const Tensor& counts, std::int64_t, const Tensor&) override {
    return std::make_unique<LocalTrip>(counts);
  }

 private:
  class LocalTrip : public Trip {
   public:
    explicit LocalTrip(const Tensor& counts)
        : offsets_(Tensor::empty({counts.numel() + 1}, DType::i32, counts.device())) {
      count_offsets_kernel()({counts, offsets_}, counts.device());
    }
    const Tensor& offsets() const override { return offsets_; }
    Tensor to_experts(const Tensor& rows) override { return rows; }
    Tensor from_experts(const Tensor& rows) override { return rows; }

   private:
    Tensor offsets_;
  };
};

std::string expert_name(std::int64_t expert, const char* part) {
  return "experts." + std::to_string(expert) + "." + part;
}

ShardContext expert_weights(const std::string& name, const BuildContext& build) {
  return {name,
          {Initializer::Kind::normal, static_cast<float>(build.init_std)},
          Layout::Ranks::expert,
          build.place.expert_tensor};
}

// The experts of a rank as one fused matrix: their specs, one below another.
ParameterSpec stack(const std::vector<ParameterSpec>& specs, const std::string& name) {
  ParameterSpec all = specs.at(0);
  all.name = name;
  all.segments.clear();
  all.shape[0] = 0;
  for (const ParameterSpec& spec : specs) {
    for (Segment segment : spec.segments) {
      segment.begin += all.shape[0];
      all.segments.push_back(std::move(segment));
    }
    all.shape[0] += spec.shape[0];
  }
  return all;
}

ParameterSpec gate_up_spec(const std::string& name, const MoeSpec& spec, const BuildContext& build) {
  const UnitRange mine = units_of(spec.experts, build.place.expert);
  std::vector<ParameterSpec> experts;
  for (std::int64_t e = mine.begin; e < mine.end; ++e)
    experts.push_back(cut_rows(expert_weights(name, build), "", ".weight",
                               {{expert_name(e, "gate"), spec.width}, {expert_name(e, "up"), spec.width}},
                               build.hidden_size));
  return stack(experts, name + ".experts.gate_up.weight");
}

ParameterSpec down_spec(const std::string& name, const MoeSpec& spec, const BuildContext& build) {
  const UnitRange mine = units_of(spec.experts, build.place.expert);
  std::vector<ParameterSpec> experts;
  for (std::int64_t e = mine.begin; e < mine.end; ++e)
    experts.push_back(cut_columns(expert_weights(name, build), expert_name(e, "down"), ".weight",
                                  build.hidden_size, spec.width, 1));
  return stack(experts, name + ".experts.down.weight");
}

ParameterSpec router_spec(const std::string& name, const MoeSpec& spec, const BuildContext& build) {
  return uncut({name,
                {Initializer::Kind::normal, static_cast<float>(build.init_std)},
                Layout::Ranks::dense,
                build.place.tensor},
               "router", ".weight", spec.experts, build.hidden_size);
}

Tensor add_rows(const Tensor& x, const Tensor& row) {
  Tensor sum = contiguous_copy(x);
  add_bias_kernel()({sum, row}, x.device());
  return sum;
}

// α f_i / S with f_i = E / (k S) · count, averaged over sequences and layers.
Tensor sequence_factor(const MoeSpec& spec, const BalanceSpec& balance, Device& device) {
  if (balance.kind != Balance::sequence) return {};
  const auto length = static_cast<double>(balance.seq_len);
  const auto factor = static_cast<float>(balance.coefficient / balance.sequences / balance.layers *
                                         static_cast<double>(spec.experts) /
                                         (static_cast<double>(spec.top_k) * length * length));
  return Tensor::from_host(&factor, {1}, DType::f32, device);
}

ParameterSpec bias_spec(const std::string& name, const MoeSpec& spec, const BuildContext& build) {
  ParameterSpec bias =
      uncut({name, {Initializer::Kind::constant, 0}, Layout::Ranks::dense, build.place.tensor}, "router",
            ".bias", spec.experts);
  bias.trained = false;
  return bias;
}

}  // namespace

std::unique_ptr<TokenDispatcher> local_dispatcher() {
  return std::make_unique<LocalDispatcher>();
}

Moe::Moe(const std::string& name, const MoeSpec& spec, const BuildContext& build)
    : Body(name),
      spec_(spec),
      balance_(build.balance),
      tokens_(build.place.tensor),
      router_(add_parameter(router_spec(name, spec, build), build.compute, build.device)),
      bias_(build.balance.kind == Balance::bias
                ? &add_parameter(bias_spec(name, spec, build), DType::f32, build.device)
                : nullptr),
      gate_up_(add_parameter(gate_up_spec(name, spec, build), build.compute, build.device)),
      down_(add_parameter(down_spec(name, spec, build), build.compute, build.device)),
      dispatcher_(local_dispatcher()),
      load_(Tensor::zeros({2 + spec.experts}, DType::f64, build.device)),
      balance_factor_(sequence_factor(spec, build.balance, build.device)) {}

// In the rows of a microbatch of whole sequences, or of this rank's positions of each.
TokenRows Moe::rows_of(const Tensor& x, const ForwardContext& context) const {
  return {tokens_.index * x.size(0), context.positions.size(1)};
}

Routing Moe::choose(const Tensor& logits, const ForwardContext& context) {
  const RouteOptions options{spec_.top_k, spec_.normalize, bias_ == nullptr ? Tensor() : bias_->value()};
  Tensor* remembered = nullptr;
  if (context.routing) remembered = &context.routing->chosen[this];
  const bool again = remembered != nullptr && remembered->defined();
  Routing routing = route(logits, options, again ? *remembered : Tensor());
  if (again && mutant("choice_made_anew") && tokens_.count > 1)
    return route(logits, {spec_.top_k, spec_.normalize, Tensor()}, Tensor());
  if (again) return routing;
  if (observer_ != nullptr) {
    const Tensor scores = bias_ == nullptr ? routing.probs : add_rows(routing.probs, bias_->value());
    const Tensor used = observer_->choose(name(), tokens_.index * logits.size(0), scores, routing.indices);
    routing = route(logits, options, used);
  }
  if (remembered != nullptr) *remembered = routing.indices;
  const Tensor slots = load_.narrow(0, 2, spec_.experts).view({1, spec_.experts});
  count_choices_kernel()({routing.indices, {0, logits.size(0)}, slots}, load_.device());
  return routing;
}

// The gradient of the balance term with respect to p, for each sequence or for all tokens.
Tensor Moe::balance_of(const Routing& routing, const ForwardContext& context, TokenRows rows) {
  if (!grad_enabled()) return {};
  if (balance_.kind == Balance::global) return global_balance_;
  if (balance_.kind != Balance::sequence) return {};
  Device& device = routing.probs.device();
  Tensor counts = Tensor::zeros({context.positions.size(0), spec_.experts}, DType::f32, device);
  count_choices_kernel()({routing.indices, rows, counts}, device);
  if (sum_sequences_) sum_sequences_(counts);
  scale(counts, balance_factor_);
  return counts;
}

Tensor Moe::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  const Tensor logits = router_logits(x, router_);  // [T, E]
  const Routing routing = choose(logits, context);
  TokenRows rows = rows_of(x, context);
  const Tensor balance = balance_of(routing, context, rows);
  if (balance_.kind == Balance::global) rows = {0, x.size(0)};
  if (balance.defined())
    balance_sum_kernel()({routing.probs, balance, rows, load_.narrow(0, 0, 1)}, x.device());
  const Tensor gates = route_gates(logits, routing, spec_.normalize, balance, rows);  // [T, k]
  const SlotOrder slots = sort_slots(routing.indices, spec_.experts);
  const auto trip = dispatcher_->plan(slots.counts, slots.order.numel(), load_.narrow(0, 1, 1));
  const Tensor here = trip->to_experts(spread_rows(x, slots));             // [R, H]
  const Tensor gate_up = grouped_linear(here, gate_up_, trip->offsets());  // [R, 2 I]
  const Tensor made = grouped_linear(swiglu(gate_up), down_, trip->offsets());
  return combine_rows(trip->from_experts(made), gates, slots);  // [T, H]
}

}  // namespace tessera
