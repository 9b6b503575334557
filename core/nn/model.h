// A decoder-only language model: embedding, ordered layers, head.
//
// Owns its parameters, on one device; the rank's thread only. `loss` and `logits` are the whole of it; a
// pipeline stage calls the parts.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/nn/blocks.h"

namespace tessera {

struct ModelOptions {
  DType compute = DType::f32;  // f32 or bf16
  Recompute recompute = Recompute::none;
  std::int64_t positions = 0;  // longest sequence it will see
};

// One microbatch on the device.
struct Batch {
  Tensor tokens;     // I32 [B, S]
  Tensor positions;  // I32 [B, S]
  Tensor doc_start;  // I32 [B, S] or undefined
  Tensor targets;    // I32 [B, S], -1 where no loss is counted; undefined for logits
};

class Model : public Module {
 public:
  Model(const ModelSpec& spec, Device& device, const ModelOptions& options);

  const ModelSpec& spec() const { return spec_; }
  Device& device() const { return device_; }
  const ModelOptions& options() const { return options_; }

  // Draws every parameter (core/autograd/parameter.h, Initializer).
  void initialize(std::uint64_t seed);

  // Sum over counted targets of −log p(target), times inverse_count (F32 scalar): F64 scalar, on the tape.
  Tensor loss(const Batch& batch, const Tensor& inverse_count);
  // F32 [B, S, V], off the tape.
  Tensor logits(const Batch& batch);

  Tensor embed(const Tensor& tokens);               // [B, S] to [B, S, H]
  Tensor run_layers(Tensor x, const Batch& batch);  // [B, S, H]
  Tensor head_loss(const Tensor& x, const Tensor& targets, const Tensor& inverse_count);

 private:
  ForwardContext context(const Batch& batch) const;

  ModelSpec spec_;
  Device& device_;
  ModelOptions options_;
  Parameter* embedding_;  // [V, H]
  std::vector<std::unique_ptr<Layer>> layers_;
  std::unique_ptr<Norm> final_norm_;
  Parameter* head_;  // [V, H]; the embedding when tied
};

// Positions 0 … S-1 in each of `sequences` rows: I32 [sequences, S].
Tensor plain_positions(std::int64_t sequences, std::int64_t length, Device& device);

}  // namespace tessera
