// Loads of experts over all ranks, and what evens them between forward passes.
//
// All of it on the device: forward passes count into memory that stays where it is, the host reads what it
// reports a step late. Members are collective over the world but for read(); the rank's thread only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/nn/moe.h"
#include "parallel/comm/communicator.h"
#include "parallel/experts.h"

namespace tessera {

// Slots sent to each expert in a step, over all ranks, by layer with experts in the model's order:
// [layers][experts]; and the value of the balance term.
struct ExpertLoad {
  std::vector<std::vector<double>> slots;
  double balance = 0;
  std::string overflow;  // "": rows found room in the buffers between ranks. Else one line: what to do
};

// What a rank's rows have room in: rows are a microbatch's tokens on a rank, times its experts each.
struct ExpertRoom {
  std::int64_t tokens = 0;
  int ranks = 1;  // that experts are dealt out over
  ExpertBuffer buffer;
};

class ExpertBalance {
 public:
  // `experts`: the mixtures of this rank's chunks, which add up their load here from now on; they and the
  // world outlive this, and are used by it alone.
  ExpertBalance(const ModelSpec& spec, const BalanceSpec& balance, std::vector<Moe*> experts,
                const ExpertRoom& room, ProcessGroup& world, Device& device);

  // Forgets what was counted.
  void clear() { own_.zero(); }
  // Makes of what was counted, by all ranks, the load of the step.
  void combine();
  // For Balance::global: hands every mixture its gradient with respect to p by the load, for the coming step.
  void set_gradient();
  // For Balance::bias: moves biases by the load, unless f64 [1] `updated` is 0.
  void move_biases(const Tensor& updated);

  // F64 [layers]: above 0 where rows found no room (core/ops/expert_load.h).
  Tensor over() const { return message_.narrow(0, layers(), layers()); }
  // The load, for a Mailbox; and what it says.
  const Tensor& message() const { return message_; }
  ExpertLoad read(std::span<const double> message) const;

 private:
  std::int64_t layers() const { return static_cast<std::int64_t>(all_.size()); }
  std::int64_t width() const { return own_.size(1) - 2; }
  Tensor slots() const { return message_.narrow(0, 2 * layers(), layers() * width()); }
  std::string overflow(std::size_t layer, double rows) const;

  BalanceSpec balance_;
  std::vector<Moe*> experts_;
  std::vector<std::size_t> index_;  // of each of them among all layers with experts
  struct Named {
    std::string name;
    std::int64_t chosen;  // experts a token
  };
  std::vector<Named> all_;  // layers with experts
  ExpertRoom room_;
  ProcessGroup& world_;
  Tensor own_;       // F64 [layers or more, 2 + experts]: this rank's share
  Tensor message_;   // F64: balance by layer, over by layer, slots [layers, experts]
  Tensor gradient_;  // F32 [1, experts], for Balance::global
};

}  // namespace tessera
