// The blocks that models are made of: norm, attention, FFN, the residual cell and the layer.
//
// Each is built from its spec (core/nn/spec.h), for its rank's place, and reads sizes from its tensors. In
// shapes, B is sequences, S positions of each, H the hidden size, T tokens: B · S, or this rank's share of
// them between blocks. Heads and widths are those held here. Rank's thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/nn/module.h"
#include "core/nn/shards.h"
#include "core/nn/spec.h"

namespace tessera {

struct RoutingMemory;

// What every block of one forward pass sees. Handles; cheap to copy into recomputation closures.
struct ForwardContext {
  Tensor positions;  // I32 [B, S]
  Tensor doc_start;  // I32 [B, S], index in the whole row of the first token of its document; undefined: no
                     // document mask
  Recompute recompute = Recompute::none;
  std::shared_ptr<RoutingMemory> routing;  // where layers are recomputed: what tokens chose
};

// Rope's tables, one for all layers that rotate alike. Owned by the model whose layers they are for.
class RopeTables {
 public:
  // See rope_table(); made when first asked for.
  const Tensor& get(const RopeSpec& spec, std::int64_t positions, Device& device);

 private:
  struct Entry {
    RopeSpec spec;
    std::int64_t positions;
    Tensor table;
  };
  std::vector<Entry> entries_;
};

// How a block makes its parameters.
struct BuildContext {
  Device& device;
  DType compute;
  double init_std;
  std::int64_t hidden_size;
  std::int64_t positions;  // rope tables reach this far
  RopeTables& rope_tables;
  ModelPlace place;
  BalanceSpec balance = {};
};

class Norm : public Module {
 public:
  Norm(std::string name, const NormSpec& spec, std::int64_t width, const BuildContext& build);
  Tensor forward(const Tensor& x);  // normalised over the last dimension, same shape, contiguous

 private:
  double eps_;
  Parameter& weight_;  // [width]
};

// What a residual cell adds to the stream.
class Body : public Module {
 public:
  using Module::Module;
  virtual Tensor forward(const Tensor& x, const ForwardContext& context) = 0;  // [T, H] to [T, H]
};

// q [B, S, nh, dh], k and v [B, S, nkv, dh], doc_start, scale, window, as the op `attention` takes them; to
// [B, S, nh · dh]. Where a sequence is spread over ranks, another one takes its place.
using SequenceMixer = std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const Tensor& doc_start, float scale, std::int64_t window)>;

class Attention : public Body {
 public:
  Attention(const std::string& name, const AttentionSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& x, const ForwardContext& context) override;
  void set_mixer(SequenceMixer mixer) { mixer_ = std::move(mixer); }

 private:
  Tensor mix(const Tensor& qkv, const ForwardContext& context);  // [T, (nh + 2 nkv) dh] to [T, nh dh]

  AttentionSpec spec_;
  SequenceMixer mixer_;
  Parameter& qkv_;          // [(nh + 2 nkv) dh, H]
  Parameter* qkv_bias_;     // [(nh + 2 nkv) dh] or null
  Parameter& output_;       // [H, nh dh]
  Parameter* output_bias_;  // [H] or null
  std::unique_ptr<Norm> q_norm_, k_norm_;
  Tensor rope_table_;  // F32 [positions, width], the model's
};

class Ffn : public Body {
 public:
  Ffn(const std::string& name, const FfnSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& x, const ForwardContext& context) override;

 private:
  Parameter& gate_up_;       // [2 I, H], gate rows first
  Parameter* gate_up_bias_;  // [2 I] or null
  Parameter& down_;          // [H, I]
  Parameter* down_bias_;     // [H] or null
};

// x + body(norm(x)).
class Cell : public Module {
 public:
  Cell(const std::string& layer, const CellSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& x, const ForwardContext& context);

 private:
  std::unique_ptr<Norm> norm_;
  std::unique_ptr<Body> body_;
};

class Layer : public Module {
 public:
  Layer(const std::string& name, const LayerSpec& spec, const BuildContext& build);
  Tensor forward(const Tensor& x, const ForwardContext& context);  // [T, H]

 private:
  std::vector<std::unique_ptr<Cell>> cells_;
};

// cos and sin of position × frequency: row p holds cos for width/2 pairs, then sin. F32 [positions, width],
// angles computed in fp32 as transformers does. On meta its shape alone.
Tensor rope_table(const RopeSpec& spec, std::int64_t positions, Device& device);

}  // namespace tessera
