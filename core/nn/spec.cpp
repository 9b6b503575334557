#include "core/nn/spec.h"

namespace tessera {
namespace {

// Matmul parameters and others (norms, biases) of one body.
struct Count {
  std::int64_t matmul = 0, other = 0;
  std::int64_t met = 0;  // of the matmul parameters, by one token
};

Count count(const AttentionSpec& a, std::int64_t hidden) {
  const std::int64_t q = a.heads * a.head_dim;
  const std::int64_t kv = a.kv_heads * a.head_dim;
  return {hidden * (2 * q + 2 * kv),
          (a.qkv_bias ? q + 2 * kv : 0) + (a.output_bias ? hidden : 0) + (a.qk_norm ? 2 * a.head_dim : 0),
          hidden * (2 * q + 2 * kv)};
}

Count count(const FfnSpec& f, std::int64_t hidden) {
  return {3 * hidden * f.width, f.bias ? 2 * f.width + hidden : 0, 3 * hidden * f.width};
}

Count count(const MoeSpec& m, std::int64_t hidden) {
  const std::int64_t expert = 3 * hidden * m.width;
  const std::int64_t router = hidden * m.experts;
  return {m.experts * expert + router, 0, m.top_k * expert + router};
}

Count count_layers(const ModelSpec& spec) {
  Count total;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer) {
      const Count body = std::visit([&](const auto& b) { return count(b, spec.hidden_size); }, cell.body);
      total.matmul += body.matmul;
      total.met += body.met;
      total.other += body.other + spec.hidden_size;
    }
  return total;
}

}  // namespace

std::int64_t moe_layers(const ModelSpec& spec) {
  std::int64_t layers = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer) layers += std::holds_alternative<MoeSpec>(cell.body) ? 1 : 0;
  return layers;
}

std::int64_t parameter_count(const ModelSpec& spec) {
  const Count layers = count_layers(spec);
  return layers.matmul + layers.other + spec.hidden_size +
         (spec.tied ? 1 : 2) * spec.vocab_size * spec.hidden_size;
}

double flops_per_token(const ModelSpec& spec, std::int64_t seq_len) {
  double flops = 6.0 * static_cast<double>(count_layers(spec).met + spec.vocab_size * spec.hidden_size);
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* a = std::get_if<AttentionSpec>(&cell.body)) {
        const std::int64_t keys = a->window > 0 && 2 * a->window < seq_len ? 2 * a->window : seq_len;
        flops += 6.0 * static_cast<double>(a->heads * a->head_dim * keys);
      }
  return flops;
}

}  // namespace tessera
