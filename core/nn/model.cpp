#include "core/nn/model.h"

#include "core/autograd/tape.h"
#include "core/nn/moe.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"

namespace tessera {
namespace {

ParameterSpec vocabulary_matrix(const char* name, const ModelSpec& spec, const BuildContext& build) {
  const Initializer normal{Initializer::Kind::normal, static_cast<float>(spec.init_std)};
  return cut_rows({name, normal, Layout::Ranks::dense, build.place.tensor}, "weight", "",
                  {{"weight", spec.vocab_size}}, spec.hidden_size);
}

}  // namespace

ModelPart whole_model(const ModelSpec& spec) {
  return {0, static_cast<std::int64_t>(spec.layers.size()), true, true, {}};
}

Embedding::Embedding(const ModelSpec& spec, const BuildContext& build)
    : Module("embedding"),
      weight_(add_parameter(vocabulary_matrix("embedding", spec, build), build.compute, build.device)) {}

Tensor Embedding::forward(const Tensor& tokens) {
  const Scope scope(*this);
  return reported(output(tessera::embedding(tokens, weight_, weight_.segments()[0].first_row)));
}

Head::Head(const ModelSpec& spec, const BuildContext& build, Parameter* tied_to)
    : Module("head"),
      norm_(std::make_unique<Norm>("final_norm", spec.final_norm, spec.hidden_size, build)),
      loss_(linear_cross_entropy) {
  add_child(*norm_);
  ParameterSpec matrix = vocabulary_matrix(spec.tied ? "embedding" : "head", spec, build);
  matrix.copy = spec.tied;
  if (tied_to == nullptr) {
    weight_ = &add_parameter(std::move(matrix), build.compute, build.device);
    return;
  }
  shared_ = std::make_unique<Parameter>(std::move(matrix), build.compute, build.device);
  shared_->share(*tied_to);
  weight_ = shared_.get();
}

Tensor Head::loss(const Tensor& x, const Tensor& targets, const Tensor& inverse_count) {
  const Scope scope(*this);
  return loss_(input(norm_->forward(x)), *weight_, targets, inverse_count);
}

Tensor Head::logits(const Tensor& x) {
  const Scope scope(*this);
  return linear_fp32_logits(norm_->forward(x), *weight_);
}

Model::Model(const ModelSpec& spec, Device& device, const ModelOptions& options)
    : Model(spec, device, options, whole_model(spec)) {}

Model::Model(const ModelSpec& spec, Device& device, const ModelOptions& options, const ModelPart& part)
    : Module("model"), spec_(spec), device_(device), options_(options), part_(part) {
  const BuildContext build{device,       options.compute, spec.init_std,  spec.hidden_size, options.positions,
                           rope_tables_, part.place,      options.balance};
  if (part.embedding) {
    embedding_ = std::make_unique<Embedding>(spec, build);
    add_child(*embedding_);
  }
  for (std::int64_t i = part.first_layer; i < part.last_layer; ++i) {
    layers_.push_back(std::make_unique<Layer>("layers." + std::to_string(i),
                                              spec.layers[static_cast<std::size_t>(i)], build));
    add_child(*layers_.back());
  }
  if (!part.head) return;
  head_ = std::make_unique<Head>(spec, build, spec.tied && embedding_ ? &embedding_->weight() : nullptr);
  add_child(*head_);
}

void Model::initialize(std::uint64_t seed) {
  for (Parameter* parameter : parameters()) parameter->initialize(seed);
}

Tensor Model::hidden(const Tensor& x, const Batch& batch) {
  ForwardContext shared{batch.positions, batch.doc_start, options_.recompute, nullptr};
  if (options_.recompute == Recompute::full) shared.routing = std::make_shared<RoutingMemory>();
  Tensor y = embedding_ ? embedding_->forward(batch.tokens) : x;
  for (const auto& layer : layers_) {
    Layer* one = layer.get();
    y = options_.recompute == Recompute::full
            ? checkpoint([one, shared](const Tensor& t) { return one->forward(t, shared); }, y)
            : one->forward(y, shared);
  }
  return y;
}

Tensor Model::loss(const Batch& batch, const Tensor& inverse_count) {
  const Tensor targets = batch.targets.view({batch.targets.numel()});
  return head_->loss(hidden({}, batch), targets, inverse_count);
}

Tensor Model::logits(const Batch& batch) {
  const NoGrad no_grad;
  return head_->logits(hidden({}, batch))
      .view({batch.tokens.size(0), batch.tokens.size(1), spec_.vocab_size});
}

Tensor plain_positions(std::int64_t sequences, std::int64_t length, Device& device) {
  std::vector<std::int32_t> positions(static_cast<std::size_t>(sequences * length));
  for (std::size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(length));
  return Tensor::from_host(positions.data(), {sequences, length}, DType::i32, device);
}

}  // namespace tessera
