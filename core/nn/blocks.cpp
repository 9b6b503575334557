#include "core/nn/blocks.h"

#include <cmath>
#include <numbers>

#include "core/autograd/tape.h"
#include "core/ops/add.h"
#include "core/ops/attention.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"

namespace tessera {
namespace {

// A matrix [sum of rows, columns] whose logical tensors are `parts`: (name, rows, unit).
struct Part {
  const char* name;
  std::int64_t rows;
  std::int64_t unit;
};

std::unique_ptr<Parameter> fused(const std::string& module, const char* storage, const char* suffix,
                                 std::initializer_list<Part> parts, std::int64_t columns,
                                 Initializer initializer, const BuildContext& build) {
  std::vector<Segment> segments;
  std::int64_t rows = 0;
  for (const Part& part : parts) {
    segments.push_back({module + "." + part.name + suffix, rows, part.rows, part.unit});
    rows += part.rows;
  }
  const Shape shape = columns == 0 ? Shape{rows} : Shape{rows, columns};
  return std::make_unique<Parameter>(module + "." + storage + suffix, shape, std::move(segments), initializer,
                                     columns != 0, build.compute, build.device);
}

Initializer normal(const BuildContext& build) {
  return {Initializer::Kind::normal, static_cast<float>(build.init_std)};
}
constexpr Initializer zero{Initializer::Kind::constant, 0.0F};

}  // namespace

Norm::Norm(std::string name, const NormSpec& spec, std::int64_t width, const BuildContext& build)
    : Module(std::move(name)),
      eps_(spec.eps),
      weight_(add_parameter(std::make_unique<Parameter>(
          Module::name() + ".weight", Shape{width},
          std::vector<Segment>{{Module::name() + ".weight", 0, width, 1}},
          Initializer{Initializer::Kind::constant, 1.0F}, false, build.compute, build.device))) {}

Tensor Norm::forward(const Tensor& x) {
  const Scope scope(*this);
  return rms_norm(x, weight_, static_cast<float>(eps_));
}

Attention::Attention(const std::string& name, const AttentionSpec& spec, const BuildContext& build)
    : Body(name),
      spec_(spec),
      qkv_(add_parameter(fused(name, "qkv", ".weight",
                               {{"q", spec.heads * spec.head_dim, spec.head_dim},
                                {"k", spec.kv_heads * spec.head_dim, spec.head_dim},
                                {"v", spec.kv_heads * spec.head_dim, spec.head_dim}},
                               build.hidden_size, normal(build), build))),
      qkv_bias_(spec.qkv_bias ? &add_parameter(fused(name, "qkv", ".bias",
                                                     {{"q", spec.heads * spec.head_dim, spec.head_dim},
                                                      {"k", spec.kv_heads * spec.head_dim, spec.head_dim},
                                                      {"v", spec.kv_heads * spec.head_dim, spec.head_dim}},
                                                     0, zero, build))
                              : nullptr),
      output_(add_parameter(fused(name, "o", ".weight", {{"o", build.hidden_size, 1}},
                                  spec.heads * spec.head_dim, normal(build), build))),
      output_bias_(spec.output_bias ? &add_parameter(fused(name, "o", ".bias", {{"o", build.hidden_size, 1}},
                                                           0, zero, build))
                                    : nullptr),
      rope_table_(rope_table(spec.rope, build.positions, build.device)) {
  if (!spec.qk_norm) return;
  q_norm_ = std::make_unique<Norm>(name + ".q_norm", *spec.qk_norm, spec.head_dim, build);
  k_norm_ = std::make_unique<Norm>(name + ".k_norm", *spec.qk_norm, spec.head_dim, build);
  add_child(*q_norm_);
  add_child(*k_norm_);
}

Tensor Attention::mix(const Tensor& qkv, const ForwardContext& context) {
  const std::int64_t dh = spec_.head_dim;
  const std::vector<Tensor> parts = split(qkv, {spec_.heads * dh, spec_.kv_heads * dh, spec_.kv_heads * dh});
  Tensor q = parts[0].split_last(spec_.heads);           // [B, S, nh, dh]
  Tensor k = parts[1].split_last(spec_.kv_heads);        // [B, S, nkv, dh]
  const Tensor v = parts[2].split_last(spec_.kv_heads);  // [B, S, nkv, dh]
  if (q_norm_) {
    q = q_norm_->forward(q);
    k = k_norm_->forward(k);
  }
  q = rope(q, rope_table_, context.positions);
  k = rope(k, rope_table_, context.positions);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dh)));
  return attention(q, k, v, context.doc_start, scale, spec_.window);  // [B, S, nh dh]
}

Tensor Attention::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  const Tensor qkv = linear(x, qkv_, qkv_bias_);  // [B, S, (nh + 2 nkv) dh]
  const Tensor mixed = context.recompute == Recompute::selective
                           ? checkpoint([this, context](const Tensor& t) { return mix(t, context); }, qkv)
                           : mix(qkv, context);
  return linear(mixed, output_, output_bias_);  // [B, S, H]
}

Ffn::Ffn(const std::string& name, const FfnSpec& spec, const BuildContext& build)
    : Body(name),
      gate_up_(
          add_parameter(fused(name, "gate_up", ".weight", {{"gate", spec.width, 1}, {"up", spec.width, 1}},
                              build.hidden_size, normal(build), build))),
      gate_up_bias_(
          spec.bias ? &add_parameter(fused(name, "gate_up", ".bias",
                                           {{"gate", spec.width, 1}, {"up", spec.width, 1}}, 0, zero, build))
                    : nullptr),
      down_(add_parameter(fused(name, "down", ".weight", {{"down", build.hidden_size, 1}}, spec.width,
                                normal(build), build))),
      down_bias_(spec.bias ? &add_parameter(fused(name, "down", ".bias", {{"down", build.hidden_size, 1}}, 0,
                                                  zero, build))
                           : nullptr) {}

Tensor Ffn::forward(const Tensor& x, const ForwardContext&) {
  const Scope scope(*this);
  const Tensor gate_up = linear(x, gate_up_, gate_up_bias_);  // [B, S, 2 I]
  return linear(swiglu(gate_up), down_, down_bias_);          // [B, S, H]
}

Cell::Cell(const std::string& layer, const CellSpec& spec, const BuildContext& build) : Module(layer) {
  const bool is_attention = std::holds_alternative<AttentionSpec>(spec.body);
  const std::string name = layer + (is_attention ? ".attention" : ".ffn");
  norm_ = std::make_unique<Norm>(name + "_norm", spec.norm, build.hidden_size, build);
  if (is_attention)
    body_ = std::make_unique<Attention>(name, std::get<AttentionSpec>(spec.body), build);
  else
    body_ = std::make_unique<Ffn>(name, std::get<FfnSpec>(spec.body), build);
  add_child(*norm_);
  add_child(*body_);
}

Tensor Cell::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  return add(x, body_->forward(norm_->forward(x), context));
}

Layer::Layer(const std::string& name, const LayerSpec& spec, const BuildContext& build) : Module(name) {
  for (const CellSpec& cell : spec) {
    cells_.push_back(std::make_unique<Cell>(name, cell, build));
    add_child(*cells_.back());
  }
}

Tensor Layer::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  Tensor y = x;
  for (const auto& cell : cells_) y = cell->forward(y, context);
  return y;
}

Tensor rope_table(const RopeSpec& spec, std::int64_t positions, Device& device) {
  const std::int64_t pairs = spec.width / 2;
  std::vector<float> table(static_cast<std::size_t>(positions * spec.width));
  for (std::int64_t i = 0; i < pairs; ++i) {
    double f = std::pow(spec.theta, -2.0 * static_cast<double>(i) / static_cast<double>(spec.width));
    if (spec.scaling) {
      const Llama3Scaling& s = *spec.scaling;
      const double wavelength = 2 * std::numbers::pi / f;
      const double original = s.original_max_position_embeddings;
      if (wavelength > original / s.low_freq_factor) {
        f /= s.factor;
      } else if (wavelength >= original / s.high_freq_factor && s.high_freq_factor > s.low_freq_factor) {
        const double t =
            (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        f *= (1 - t) / s.factor + t;
      }
    }
    for (std::int64_t p = 0; p < positions; ++p) {
      const float angle = static_cast<float>(p) * static_cast<float>(f);
      table[static_cast<std::size_t>(p * spec.width + i)] = std::cos(angle);
      table[static_cast<std::size_t>(p * spec.width + pairs + i)] = std::sin(angle);
    }
  }
  return Tensor::from_host(table.data(), {positions, spec.width}, DType::f32, device);
}

}  // namespace tessera
