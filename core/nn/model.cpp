#include "core/nn/model.h"

#include "core/autograd/tape.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"

namespace tessera {
namespace {

std::unique_ptr<Parameter> vocabulary_matrix(const char* name, const ModelSpec& spec,
                                             const BuildContext& build) {
  return std::make_unique<Parameter>(
      name, Shape{spec.vocab_size, spec.hidden_size}, std::vector<Segment>{{name, 0, spec.vocab_size, 1}},
      Initializer{Initializer::Kind::normal, static_cast<float>(spec.init_std)}, true, build.compute,
      build.device);
}

}  // namespace

Model::Model(const ModelSpec& spec, Device& device, const ModelOptions& options)
    : Module("model"), spec_(spec), device_(device), options_(options) {
  const BuildContext build{device, options.compute, spec.init_std, spec.hidden_size, options.positions};
  embedding_ = &add_parameter(vocabulary_matrix("embedding.weight", spec, build));
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    layers_.push_back(std::make_unique<Layer>("layers." + std::to_string(i), spec.layers[i], build));
    add_child(*layers_.back());
  }
  final_norm_ = std::make_unique<Norm>("final_norm", spec.final_norm, spec.hidden_size, build);
  add_child(*final_norm_);
  head_ = spec.tied ? embedding_ : &add_parameter(vocabulary_matrix("head.weight", spec, build));
}

void Model::initialize(std::uint64_t seed) {
  for (Parameter* parameter : parameters()) parameter->initialize(seed);
}

ForwardContext Model::context(const Batch& batch) const {
  return {batch.positions, batch.doc_start, options_.recompute};
}

Tensor Model::embed(const Tensor& tokens) {
  const Scope scope(*this);
  return embedding(tokens, *embedding_);
}

Tensor Model::run_layers(Tensor x, const Batch& batch) {
  const ForwardContext shared = context(batch);
  for (const auto& layer : layers_) {
    Layer* one = layer.get();
    x = options_.recompute == Recompute::full
            ? checkpoint([one, shared](const Tensor& t) { return one->forward(t, shared); }, x)
            : one->forward(x, shared);
  }
  return x;
}

Tensor Model::head_loss(const Tensor& x, const Tensor& targets, const Tensor& inverse_count) {
  const std::int64_t tokens = x.size(0) * x.size(1);
  const Tensor normed = final_norm_->forward(x);  // [B, S, H]
  return linear_cross_entropy(normed.view({tokens, x.size(2)}), *head_, targets.view({tokens}),
                              inverse_count);
}

Tensor Model::loss(const Batch& batch, const Tensor& inverse_count) {
  return head_loss(run_layers(embed(batch.tokens), batch), batch.targets, inverse_count);
}

Tensor Model::logits(const Batch& batch) {
  const NoGrad no_grad;
  return linear_fp32_logits(final_norm_->forward(run_layers(embed(batch.tokens), batch)), *head_);
}

Tensor plain_positions(std::int64_t sequences, std::int64_t length, Device& device) {
  std::vector<std::int32_t> positions(static_cast<std::size_t>(sequences * length));
  for (std::size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(length));
  return Tensor::from_host(positions.data(), {sequences, length}, DType::i32, device);
}

}  // namespace tessera
