// A model as data: what blocks it is made of, with their sizes. A family (core/models) turns a config into
// one.
//
// The same spec yields parameters, FLOP counts and memory estimates. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tessera {

// Which activations are recomputed in backward: none, attention's (selective), or every layer's (full).
enum class Recompute { none, selective, full };

// w ⊙ x / √(mean x² + ε), statistics in fp32.
struct NormSpec {
  double eps = 1e-6;
};

// Wavelength-dependent scaling of the llama3 rope type.
struct Llama3Scaling {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double original_max_position_embeddings = 8192;
  bool operator==(const Llama3Scaling&) const = default;
};

// Rotary embedding, half layout: pairs (i, i + width/2) of the first `width` dimensions of a head.
struct RopeSpec {
  std::int64_t width = 0;
  double theta = 10000;
  std::optional<Llama3Scaling> scaling;
  bool operator==(const RopeSpec&) const = default;
};

// Grouped-query attention; query head h reads KV head ⌊h · kv_heads / heads⌋.
struct AttentionSpec {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false, output_bias = false;
  std::optional<NormSpec> qk_norm;  // per head, before rope
  RopeSpec rope;
  std::int64_t window = 0;  // sliding window including self; 0: none
};

// Wd (silu(Wg x) ⊙ Wu x).
struct FfnSpec {
  std::int64_t width = 0;
  bool bias = false;
};

// Σ over the k experts of largest router probability: gate · Wd (silu(Wg x) ⊙ Wu x).
struct MoeSpec {
  std::int64_t experts = 0, top_k = 0;
  std::int64_t width = 0;  // of an expert
  bool normalize = true;   // gates are divided by their sum
};

// What keeps experts' loads even: nothing; a term per sequence and layer, averaged; transformers' term over
// all layers and the whole batch; or a bias on choices, moved after each step (DeepSeek-V3's).
enum class Balance { none, sequence, global, bias };

struct BalanceSpec {
  Balance kind = Balance::none;
  double coefficient = 0;
  double bias_rate = 1e-3;
  // What the terms are averaged over: sequences of a step, tokens of each, layers with experts.
  double sequences = 1;
  std::int64_t seq_len = 1;
  double layers = 1;
};

// x += body(norm(x)).
struct CellSpec {
  NormSpec norm;
  std::variant<AttentionSpec, FfnSpec, MoeSpec> body;
};

using LayerSpec = std::vector<CellSpec>;

struct ModelSpec {
  std::int64_t vocab_size = 0, hidden_size = 0;
  std::int64_t max_positions = 0;
  std::vector<LayerSpec> layers;
  NormSpec final_norm;
  bool tied = false;  // the head is the embedding
  double init_std = 0.02;
};

// Layers with experts.
std::int64_t moe_layers(const ModelSpec& spec);

// Parameters, tied ones once; 2⁶² where there are more.
std::int64_t parameter_count(const ModelSpec& spec);

// Floating-point operations of forward and backward per token at sequence length `seq_len`: 6 per matmul
// parameter that a token meets, causal attention counted half, recomputation not counted.
double flops_per_token(const ModelSpec& spec, std::int64_t seq_len);

}  // namespace tessera
