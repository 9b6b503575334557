// A decoder-only language model: embedding, ordered layers, head; or the consecutive part of one that a rank
// holds, cut over ranks as its place says, with full names.
//
// Owns its parameters, on one device; the rank's thread only. `loss` and `logits` are the whole of it; a
// pipeline stage calls the parts.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/nn/blocks.h"

namespace tessera {

struct ModelOptions {
  DType compute = DType::f32;  // f32 or bf16
  Recompute recompute = Recompute::none;
  std::int64_t positions = 0;  // longest sequence it will see
  BalanceSpec balance = {};
};

// Which part: layers [first_layer, last_layer), the embedding before them, the head after them.
struct ModelPart {
  std::int64_t first_layer = 0, last_layer = 0;
  bool embedding = true, head = true;
  ModelPlace place;
};
ModelPart whole_model(const ModelSpec& spec);

// One microbatch on the device: B sequences, and S positions of each, all or this rank's.
struct Batch {
  Tensor tokens;     // I32 [B, S]
  Tensor positions;  // I32 [B, S]
  Tensor doc_start;  // I32 [B, S] or undefined
  Tensor targets;    // I32 [B, S], -1 where no loss is counted; undefined for logits
};

// Tokens to hidden states.
class Embedding : public Module {
 public:
  Embedding(const ModelSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& tokens);  // I32 [B, S] to [T, H]
  Parameter& weight() { return weight_; }

 private:
  Parameter& weight_;  // [V, H]
};

// Sum over counted targets of −log p(target), times inverse_count: x [T, H], weight [V, H], targets I32 [T],
// inverse_count F32 scalar; to an F64 scalar. Where the vocabulary is cut over ranks another one takes the
// place of linear_cross_entropy, and yields this rank's share of the sum.
using LossHead = std::function<Tensor(const Tensor& x, Parameter& weight, const Tensor& targets,
                                      const Tensor& inverse_count)>;

// Final norm and output matrix; its input is resharded after the norm.
class Head : public Module {
 public:
  // `tied_to`: the embedding's matrix where it is in the same part, else null.
  Head(const ModelSpec& spec, const BuildContext& build, Parameter* tied_to);
  Tensor loss(const Tensor& x, const Tensor& targets, const Tensor& inverse_count);
  Tensor logits(const Tensor& x);  // F32 [T, V]
  void set_loss(LossHead loss) { loss_ = std::move(loss); }
  Parameter& weight() { return *weight_; }

 private:
  std::unique_ptr<Norm> norm_;
  std::unique_ptr<Parameter> shared_;  // of a tied head beside its embedding: gradients only
  Parameter* weight_;                  // [V, H]
  LossHead loss_;
};

class Model : public Module {
 public:
  Model(const ModelSpec& spec, Device& device, const ModelOptions& options);
  Model(const ModelSpec& spec, Device& device, const ModelOptions& options, const ModelPart& part);

  const ModelSpec& spec() const { return spec_; }  // of the whole model
  Device& device() const { return device_; }
  const ModelOptions& options() const { return options_; }
  const ModelPart& part() const { return part_; }
  Embedding* embedding() { return embedding_.get(); }
  Head* head() { return head_.get(); }
  std::span<const std::unique_ptr<Layer>> layers() const { return layers_; }

  // Draws every parameter (core/autograd/parameter.h, Initializer).
  void initialize(std::uint64_t seed);

  // Of a whole model: the sum over counted targets of −log p(target), times inverse_count (F32 scalar); F64
  // scalar, on the tape.
  Tensor loss(const Batch& batch, const Tensor& inverse_count);
  // Of a whole model: F32 [B, S, V], off the tape.
  Tensor logits(const Batch& batch);

  // The embedding, if it is here, and the layers. `x` [T, H]: of the part before this one, else undefined.
  Tensor hidden(const Tensor& x, const Batch& batch);

 private:
  ModelSpec spec_;
  Device& device_;
  ModelOptions options_;
  ModelPart part_;
  RopeTables rope_tables_;
  std::unique_ptr<Embedding> embedding_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::unique_ptr<Head> head_;
};

// Positions 0 … S-1 in each of `sequences` rows: I32 [sequences, S].
Tensor plain_positions(std::int64_t sequences, std::int64_t length, Device& device);

}  // namespace tessera
