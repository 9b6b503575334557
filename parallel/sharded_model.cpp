#include "parallel/sharded_model.h"

#include <algorithm>

#include "core/autograd/tape.h"
#include "core/base/mutant.h"

namespace tessera {
namespace {

// Of a stage, how many tensor-parallel neighbours hold the same KV heads.
int replicas_of_heads(const Model& model) {
  int replicas = 1;
  for (const Parameter* parameter : model.parameters())
    for (const Segment& segment : parameter->segments()) replicas = std::max(replicas, segment.replicas);
  return replicas;
}

void drop_all(const std::vector<Bucket*>& buckets) {
  for (Bucket* bucket : buckets) bucket->drop();
}

}  // namespace

ShardedModel::ShardedModel(const ModelSpec& spec, Device& device, const ModelOptions& options,
                           const ModelPart& part, const Mesh& mesh, const ParallelLayout& layout)
    : model_(spec, device, options, part), mesh_(mesh), zero_(layout.zero) {
  apply_mesh(model_, mesh, layout);
  if (const int replicas = replicas_of_heads(model_); replicas > 1) {
    ProcessGroup& tensor = mesh.group(Axis::tp);
    same_heads_ = tensor.split(tensor.rank() / replicas, tensor.rank());
  }
  if (model_.embedding() != nullptr) add_embedding();
  for (const auto& layer : model_.layers()) add_layer(*layer);
  if (model_.head() != nullptr) add_head();
  install_hooks();
}

ReplicaGroups ShardedModel::ranks_of(const std::vector<Parameter*>& parameters) {
  if (parameters[0]->layout().ranks == Layout::Ranks::expert && !mutant("experts_summed_with_others")) {
    ProcessGroup& replicas = mesh_.group(Axis::edp);
    return {&replicas, {&replicas}, &mesh_.group(Axis::etp), nullptr};
  }
  return {&mesh_.replicas(),
          {&mesh_.group(Axis::dp), &mesh_.group(Axis::cp)},
          &mesh_.group(Axis::tp),
          same_heads_.get()};
}

void ShardedModel::mark_done(const std::vector<Bucket*>& buckets) {
  if (tells_late_) return;
  for (Bucket* bucket : buckets) {
    bucket->drop();
    bucket->microbatch_done();
  }
}

Bucket* ShardedModel::add_bucket(Unit& unit, std::vector<Parameter*> parameters) {
  if (parameters.empty()) return nullptr;
  const ReplicaGroups ranks = ranks_of(parameters);
  std::vector<std::int64_t>& spoken_for = spoken_for_[parameters[0]->layout().ranks];
  buckets_.push_back(std::make_unique<Bucket>(std::move(parameters), ranks, zero_, spoken_for));
  unit.buckets.push_back(buckets_.back().get());
  return unit.buckets.back();
}

void ShardedModel::add_embedding() {
  Unit unit{model_.embedding(), {}};
  Bucket* bucket = add_bucket(unit, {&model_.embedding()->weight()});
  if (model_.spec().tied) tied_embedding_ = bucket;
  units_.push_back(std::move(unit));
}

void ShardedModel::add_layer(Layer& layer) {
  std::vector<Parameter*> dense;
  std::vector<Parameter*> expert;
  for (Parameter* parameter : layer.parameters())
    if (parameter->is_trained())
      (parameter->layout().ranks == Layout::Ranks::expert ? expert : dense).push_back(parameter);
  Unit unit{&layer, {}};
  add_bucket(unit, std::move(dense));
  add_bucket(unit, std::move(expert));
  units_.push_back(std::move(unit));
}

// A tied copy lies alone, as the embedding does, so that the two are cut alike.
void ShardedModel::add_head() {
  Unit unit{model_.head(), {}};
  Parameter* matrix = &model_.head()->weight();
  std::vector<Parameter*> others = model_.head()->parameters();
  if (matrix->is_copy()) {
    std::erase(others, matrix);
    tied_head_ = add_bucket(unit, {matrix});
  }
  add_bucket(unit, std::move(others));
  units_.push_back(std::move(unit));
}

void ShardedModel::install_hooks() {
  for (std::size_t i = 0; i < units_.size(); ++i) {
    Unit& unit = units_[i];
    if (zero_ == 3) {
      for (Bucket* bucket : unit.buckets)
        for (Parameter* parameter : bucket->parameters())
          if (!parameter->is_shared()) parameter->on_missing_view([this, i] { fetch_ahead(i); });
      unit.module->on_enter([this, i](Module&) { fetch_ahead(i); });
      unit.module->on_leave([&unit](Module&) {
        if (!in_backward()) drop_all(unit.buckets);
      });
    }
    if (dynamic_cast<Layer*>(unit.module) != nullptr)
      unit.module->reshard([this, i](const Tensor& x) { return marked(x, i); }, {});
  }
}

// x as it enters a unit: when backward comes by, the unit's values are no longer needed, but those of the
// units before it soon will be.
Tensor ShardedModel::marked(const Tensor& x, std::size_t unit) {
  const auto passed = [this, unit] {
    drop_all(units_[unit].buckets);
    if (zero_ == 3 && unit > 0) fetch_ahead(unit - 1);
  };
  return mark(x, passed, [this, unit] { mark_done(units_[unit].buckets); });
}

// This unit's values, and those of the unit that will be needed after it. Backward of an embedding needs
// none.
void ShardedModel::fetch_ahead(std::size_t unit) {
  const auto needed = [&](std::size_t i) {
    return i < units_.size() && !(in_backward() && units_[i].module == model_.embedding());
  };
  for (const std::size_t i : {unit, in_backward() ? unit - 1 : unit + 1})
    if (needed(i))
      for (Bucket* bucket : units_[i].buckets) bucket->fetch();
  for (Bucket* bucket : units_[unit].buckets) bucket->await_fetched();  // the other comes meanwhile
}

void ShardedModel::initialize(std::uint64_t seed) {
  model_.initialize(seed);
  publish();
}

void ShardedModel::publish() {
  for (const auto& bucket : buckets_) bucket->publish();
  for (const auto& bucket : buckets_) bucket->await_fetched();
}

void ShardedModel::start_step(const GroupCount& count) {
  for (const auto& bucket : buckets_) bucket->start_step(count);
}

Tensor ShardedModel::loss(const Tensor& x, const Batch& batch, const Tensor& inverse_count) {
  const std::vector<Bucket*>* head = &units_.back().buckets;
  const Tensor marked = mark(
      x, [head] { drop_all(*head); }, [this, head] { mark_done(*head); });
  return model_.head()->loss(marked, batch.targets.view({batch.targets.numel()}), inverse_count);
}

void ShardedModel::microbatch_done() {
  if (tells_late_) {
    for (const auto& bucket : buckets_) {
      bucket->note_written();
      bucket->microbatch_done();
    }
    return;
  }
  if (model_.embedding() != nullptr) mark_done(units_.front().buckets);
}

void ShardedModel::finish_step() {
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    buckets_[i]->finish_step();
    if (i > 0) buckets_[i - 1]->await_sum();  // this one's values travel meanwhile
  }
  if (!buckets_.empty()) buckets_.back()->await_sum();
}

std::vector<SegmentOf> ShardedModel::spoken_for() const {
  std::vector<SegmentOf> result;
  for (const auto& bucket : buckets_)
    for (Parameter* parameter : bucket->parameters())
      for (const Segment& segment : parameter->segments())
        if (bucket->speaks_for(*parameter, segment)) result.push_back({parameter, &segment});
  return result;
}

}  // namespace tessera
