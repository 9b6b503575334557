#include "core/nn/spec.h"

#include <algorithm>

namespace tessera {
namespace {

// Matmul parameters and others (norms, biases) of one body. Double holds them exactly up to 2⁵³, and sizes
// that belong to no model do not overflow.
struct Count {
  double matmul = 0, other = 0;
  double met = 0;  // of the matmul parameters, by one token
};

Count count(const AttentionSpec& a, double hidden) {
  const auto head = static_cast<double>(a.head_dim);
  const double q = static_cast<double>(a.heads) * head;
  const double kv = static_cast<double>(a.kv_heads) * head;
  return {hidden * (2 * q + 2 * kv),
          (a.qkv_bias ? q + 2 * kv : 0) + (a.output_bias ? hidden : 0) + (a.qk_norm ? 2 * head : 0),
          hidden * (2 * q + 2 * kv)};
}

Count count(const FfnSpec& f, double hidden) {
  const auto width = static_cast<double>(f.width);
  return {3 * hidden * width, f.bias ? 2 * width + hidden : 0, 3 * hidden * width};
}

Count count(const MoeSpec& m, double hidden) {
  const double expert = 3 * hidden * static_cast<double>(m.width);
  const double router = hidden * static_cast<double>(m.experts);
  return {static_cast<double>(m.experts) * expert + router, 0,
          static_cast<double>(m.top_k) * expert + router};
}

Count count_layers(const ModelSpec& spec) {
  Count total;
  const auto hidden = static_cast<double>(spec.hidden_size);
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer) {
      const Count body = std::visit([&](const auto& b) { return count(b, hidden); }, cell.body);
      total.matmul += body.matmul;
      total.met += body.met;
      total.other += body.other + hidden;
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
  const auto hidden = static_cast<double>(spec.hidden_size);
  const double total = layers.matmul + layers.other + hidden +
                       (spec.tied ? 1 : 2) * static_cast<double>(spec.vocab_size) * hidden;
  return static_cast<std::int64_t>(std::min(total, 0x1p62));
}

double flops_per_token(const ModelSpec& spec, std::int64_t seq_len) {
  double flops = 6.0 * (count_layers(spec).met + static_cast<double>(spec.vocab_size * spec.hidden_size));
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* a = std::get_if<AttentionSpec>(&cell.body)) {
        const std::int64_t keys = a->window > 0 && 2 * a->window < seq_len ? 2 * a->window : seq_len;
        flops += 6.0 * static_cast<double>(a->heads * a->head_dim * keys);
      }
  return flops;
}

}  // namespace tessera
