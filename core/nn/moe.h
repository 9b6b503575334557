// Mixture of experts: a router, and gated FFNs of which each token sees the k that it is sent to.
//
// Dropless: every slot of every token is computed. Rows go to experts in a fixed order (by expert, then by
// token and slot), through a TokenDispatcher, which is where expert parallelism enters. Rank's thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "core/nn/blocks.h"
#include "core/ops/router.h"

namespace tessera {

// How rows, sorted by expert, get to the ranks that hold the experts, and back.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;
  // One batch of rows on its way.
  class Trip {
   public:
    virtual ~Trip() = default;
    // I32 [experts here + 1]: where each expert's rows begin.
    virtual const Tensor& offsets() const = 0;
    // [rows, H], sorted, of this rank's tokens, to [rows here, H] by expert; what a buffer holds beyond the
    // last expert's rows is zero. Recorded.
    virtual Tensor to_experts(const Tensor& rows) = 0;
    // The way back, for what the experts made of them; beyond the last expert's rows nothing is read.
    virtual Tensor from_experts(const Tensor& rows) = 0;
  };
  // counts: I32 [experts], how many of this rank's `rows` are for each. over: F64 [1], raised to the rows
  // that one rank has for another where a buffer holds fewer: results are then wrong.
  virtual std::unique_ptr<Trip> plan(const Tensor& counts, std::int64_t rows, const Tensor& over) = 0;
  // Whether the host may wait for counts from now on: then any load finds room.
  virtual void let_host_wait(bool) {}
};

// All experts are here.
std::unique_ptr<TokenDispatcher> local_dispatcher();

// Sees, and may replace, what a layer's tokens choose: `verify` records and replays it. Called once per
// microbatch and layer, in forward.
class RoutingObserver {
 public:
  virtual ~RoutingObserver() = default;
  // scores F32 [T, E], by which chosen I32 [T, k] are the largest, of the tokens `first` … of this rank's
  // microbatch. Returns what is used.
  virtual Tensor choose(const std::string& layer, std::int64_t first, const Tensor& scores,
                        const Tensor& chosen) = 0;
};

// Choices of a forward pass, for its recomputation.
struct RoutingMemory {
  std::map<const Module*, Tensor> chosen;
};

class Moe : public Body {
 public:
  Moe(const std::string& name, const MoeSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& x, const ForwardContext& context) override;

  const MoeSpec& spec() const { return spec_; }
  TokenDispatcher& dispatcher() { return *dispatcher_; }
  void set_dispatcher(std::unique_ptr<TokenDispatcher> dispatcher) { dispatcher_ = std::move(dispatcher); }
  // Adds up [B, E] counts over the ranks that share a microbatch's sequences.
  void on_sequence_counts(std::function<void(const Tensor&)> sum) { sum_sequences_ = std::move(sum); }
  void set_observer(RoutingObserver* observer) { observer_ = observer; }

  // Where forward passes add up this rank's share of the layer's load, F64 [2 + E] (core/ops/expert_load.h):
  // memory of its own, unless bound.
  void bind_load(Tensor load) { load_ = std::move(load); }
  // For Balance::global: the gradient of the term with respect to p, F32 [1, E], kept up to date by whoever
  // bound it.
  void bind_global_balance(Tensor balance) { global_balance_ = std::move(balance); }
  // For Balance::bias: F32 [E], what is added to p for choosing.
  Parameter* bias() { return bias_; }

 private:
  Routing choose(const Tensor& logits, const ForwardContext& context);
  Tensor balance_of(const Routing& routing, const ForwardContext& context, TokenRows rows);
  TokenRows rows_of(const Tensor& x, const ForwardContext& context) const;

  MoeSpec spec_;
  BalanceSpec balance_;
  ShardPlace tokens_;   // which share of a microbatch's tokens is here
  Parameter& router_;   // [E, H]
  Parameter* bias_;     // [E] or null
  Parameter& gate_up_;  // [experts here · 2 I, H], each expert's gate rows, then its up rows
  Parameter& down_;     // [experts here · H, I]
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::function<void(const Tensor&)> sum_sequences_;
  RoutingObserver* observer_ = nullptr;
  Tensor load_;  // F64 [2 + E]
  Tensor global_balance_;
  Tensor balance_factor_;  // F32 [1]: what counts are multiplied by, for Balance::sequence
};

}  // namespace tessera
