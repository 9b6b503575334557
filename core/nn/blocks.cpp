#include "core/nn/blocks.h"

#include <cmath>
#include <numbers>

#include "core/autograd/tape.h"
#include "core/base/mutant.h"
#include "core/nn/moe.h"
#include "core/ops/add.h"
#include "core/ops/attention.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"

namespace tessera {
namespace {

ShardContext weights(const std::string& module, const BuildContext& build) {
  return {module,
          {Initializer::Kind::normal, static_cast<float>(build.init_std)},
          Layout::Ranks::dense,
          build.place.tensor};
}

std::vector<Part> qkv_parts(const AttentionSpec& spec) {
  return {{"q", spec.heads * spec.head_dim, spec.head_dim},
          {"k", spec.kv_heads * spec.head_dim, spec.head_dim, WhenFew::replicate},
          {"v", spec.kv_heads * spec.head_dim, spec.head_dim, WhenFew::replicate}};
}

ShardContext constants(const std::string& module, float value, const BuildContext& build) {
  return {module, {Initializer::Kind::constant, value}, Layout::Ranks::dense, build.place.tensor};
}

}  // namespace

Norm::Norm(std::string name, const NormSpec& spec, std::int64_t width, const BuildContext& build)
    : Module(std::move(name)),
      eps_(spec.eps),
      weight_(add_parameter(uncut(constants(Module::name(), 1, build), "weight", "", width), build.compute,
                            build.device)) {}

Tensor Norm::forward(const Tensor& x) {
  const Scope scope(*this);
  return rms_norm(x, weight_, static_cast<float>(eps_));
}

Attention::Attention(const std::string& name, const AttentionSpec& spec, const BuildContext& build)
    : Body(name),
      spec_(spec),
      mixer_(attention),
      qkv_(add_parameter(cut_rows(weights(name, build), "qkv", ".weight", qkv_parts(spec), build.hidden_size),
                         build.compute, build.device)),
      qkv_bias_(spec.qkv_bias
                    ? &add_parameter(cut_rows(constants(name, 0, build), "qkv", ".bias", qkv_parts(spec), 0),
                                     build.compute, build.device)
                    : nullptr),
      output_(add_parameter(cut_columns(weights(name, build), "o", ".weight", build.hidden_size,
                                        spec.heads * spec.head_dim, spec.head_dim),
                            build.compute, build.device)),
      output_bias_(spec.output_bias
                       ? &add_parameter(uncut(constants(name, 0, build), "o", ".bias", build.hidden_size),
                                        build.compute, build.device)
                       : nullptr),
      rope_table_(build.rope_tables.get(spec.rope, build.positions, build.device)) {
  spec_.heads = qkv_.segments()[0].rows / spec.head_dim;
  spec_.kv_heads = qkv_.segments()[1].rows / spec.head_dim;
  if (!spec.qk_norm) return;
  q_norm_ = std::make_unique<Norm>(name + ".q_norm", *spec.qk_norm, spec.head_dim, build);
  k_norm_ = std::make_unique<Norm>(name + ".k_norm", *spec.qk_norm, spec.head_dim, build);
  add_child(*q_norm_);
  add_child(*k_norm_);
}

Tensor Attention::mix(const Tensor& qkv, const ForwardContext& context) {
  const std::int64_t dh = spec_.head_dim;
  const std::int64_t batch = context.positions.size(0);
  const std::int64_t length = context.positions.size(1);
  const std::vector<Tensor> parts = split(qkv, {spec_.heads * dh, spec_.kv_heads * dh, spec_.kv_heads * dh});
  const auto heads = [&](const Tensor& part, std::int64_t count) {
    return part.split_first(batch, length).split_last(count);  // [B, S, count, dh]
  };
  Tensor q = heads(parts[0], spec_.heads);
  Tensor k = heads(parts[1], spec_.kv_heads);
  const Tensor v = heads(parts[2], spec_.kv_heads);
  if (q_norm_) {
    q = q_norm_->forward(q);
    k = k_norm_->forward(k);
  }
  q = rope(q, rope_table_, context.positions);
  k = rope(k, rope_table_, context.positions);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dh)));
  const Tensor mixed = mixer_(q, k, v, context.doc_start, scale, spec_.window);  // [B, S, nh dh]
  return mixed.view({batch * length, spec_.heads * dh});
}

Tensor Attention::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  const Tensor qkv = linear(input(x), qkv_, qkv_bias_);  // [T, (nh + 2 nkv) dh]
  const Tensor mixed = context.recompute == Recompute::selective
                           ? checkpoint([this, context](const Tensor& t) { return mix(t, context); }, qkv)
                           : mix(qkv, context);
  if (mutant("bias_on_every_rank")) return output(linear(mixed, output_, output_bias_));
  return add_bias(output(linear(mixed, output_, nullptr)), output_bias_);  // [T, H]
}

Ffn::Ffn(const std::string& name, const FfnSpec& spec, const BuildContext& build)
    : Body(name),
      gate_up_(add_parameter(cut_rows(weights(name, build), "gate_up", ".weight",
                                      {{"gate", spec.width}, {"up", spec.width}}, build.hidden_size),
                             build.compute, build.device)),
      gate_up_bias_(spec.bias ? &add_parameter(cut_rows(constants(name, 0, build), "gate_up", ".bias",
                                                        {{"gate", spec.width}, {"up", spec.width}}, 0),
                                               build.compute, build.device)
                              : nullptr),
      down_(add_parameter(
          cut_columns(weights(name, build), "down", ".weight", build.hidden_size, spec.width, 1),
          build.compute, build.device)),
      down_bias_(spec.bias
                     ? &add_parameter(uncut(constants(name, 0, build), "down", ".bias", build.hidden_size),
                                      build.compute, build.device)
                     : nullptr) {}

Tensor Ffn::forward(const Tensor& x, const ForwardContext&) {
  const Scope scope(*this);
  const Tensor gate_up = linear(input(x), gate_up_, gate_up_bias_);              // [T, 2 I]
  return add_bias(output(linear(swiglu(gate_up), down_, nullptr)), down_bias_);  // [T, H]
}

Cell::Cell(const std::string& layer, const CellSpec& spec, const BuildContext& build)
    : Module(layer + (std::holds_alternative<AttentionSpec>(spec.body) ? ".attention" : ".ffn")) {
  const auto* attention = std::get_if<AttentionSpec>(&spec.body);
  norm_ = std::make_unique<Norm>(name() + "_norm", spec.norm, build.hidden_size, build);
  if (attention != nullptr)
    body_ = std::make_unique<Attention>(name(), *attention, build);
  else if (const auto* ffn = std::get_if<FfnSpec>(&spec.body))
    body_ = std::make_unique<Ffn>(name(), *ffn, build);
  else
    body_ = std::make_unique<Moe>(name(), std::get<MoeSpec>(spec.body), build);
  add_child(*norm_);
  add_child(*body_);
}

Tensor Cell::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  return reported(add(x, body_->forward(norm_->forward(x), context)));
}

Layer::Layer(const std::string& name, const LayerSpec& spec, const BuildContext& build) : Module(name) {
  for (const CellSpec& cell : spec) {
    cells_.push_back(std::make_unique<Cell>(name, cell, build));
    add_child(*cells_.back());
  }
}

Tensor Layer::forward(const Tensor& x, const ForwardContext& context) {
  const Scope scope(*this);
  Tensor y = input(x);
  for (const auto& cell : cells_) y = cell->forward(y, context);
  return y;
}

const Tensor& RopeTables::get(const RopeSpec& spec, std::int64_t positions, Device& device) {
  for (const Entry& entry : entries_)
    if (entry.spec == spec && entry.positions == positions) return entry.table;
  const MemoryScope scope(device, MemoryUse::weights);
  entries_.push_back({spec, positions, rope_table(spec, positions, device)});
  return entries_.back().table;
}

Tensor rope_table(const RopeSpec& spec, std::int64_t positions, Device& device) {
  if (device.kind() == DeviceKind::meta) return Tensor::empty({positions, spec.width}, DType::f32, device);
  const std::int64_t pairs = spec.width / 2;
  std::vector<float> table(static_cast<std::size_t>(positions * spec.width));
  std::vector<float> frequencies;
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
    frequencies.push_back(static_cast<float>(f));
  }
  device.threads().parallel_blocks(positions, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      float* row = table.data() + p * spec.width;
      for (std::int64_t i = 0; i < pairs; ++i) {
        const float angle = static_cast<float>(p) * frequencies[static_cast<std::size_t>(i)];
        row[i] = std::cos(angle);
        row[pairs + i] = std::sin(angle);
      }
    }
  });
  return Tensor::from_host(table.data(), {positions, spec.width}, DType::f32, device);
}

}  // namespace tessera
