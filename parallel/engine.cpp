#include "parallel/engine.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/base/mutant.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"
#include "parallel/pipeline/split.h"

namespace tessera {

Engine::Engine(const ModelSpec& spec, Device& device, ProcessGroup& world, const ParallelLayout& layout,
               const ModelOptions& model, const BatchShape& batch, std::int64_t reduce_groups,
               const AdamWOptions& optimizer)
    : spec_(spec),
      device_(device),
      layout_(layout),
      mesh_(world, layout.mesh),
      batch_(batch),
      groups_(plan_reduce_groups(batch.global_batch, batch.micro_batch, reduce_groups, layout.mesh.dp,
                                 mesh_.index(Axis::dp), layout.zero >= 2)),
      reports_(device, sizeof(StepReport) / sizeof(double)) {
  const float one = 1;
  one_ = Tensor::from_host(&one, {1}, DType::f32, device_);
  build(model, optimizer);
  lay_out_losses();
}

Engine::~Engine() = default;

void Engine::build(const ModelOptions& given, const AdamWOptions& optimizer) {
  ModelOptions model = given;
  model.balance.sequences = static_cast<double>(batch_.global_batch);
  if (mutant("balance_scaled_by_ranks")) model.balance.sequences /= mesh_.size(Axis::dp);
  model.balance.seq_len = batch_.seq_len;
  model.balance.layers = static_cast<double>(std::max<std::int64_t>(1, moe_layers(spec_)));
  balance_ = model.balance;
  const int stages = mesh_.size(Axis::pp);
  const int chunks = stages * layout_.virtual_stages;
  if (layout_.layers.empty()) layout_.layers = split_layers(split_costs(spec_, batch_.seq_len), chunks);
  const std::vector<ModelPart> parts = pipeline_parts(spec_, layout_.layers, model_place(mesh_));
  std::vector<ShardedModel*> own;
  std::vector<Parameter*> stepped;
  std::vector<SegmentOf> spoken_for;
  for (int c = mesh_.index(Axis::pp); c < chunks; c += stages) {
    const int part =
        mutant("virtual_stages_in_blocks") ? c % stages * layout_.virtual_stages + c / stages : c;
    chunks_.push_back(std::make_unique<ShardedModel>(spec_, device_, model,
                                                     parts[static_cast<std::size_t>(part)], mesh_, layout_));
    own.push_back(chunks_.back().get());
    for (Parameter* parameter : own.back()->parameters())
      if (parameter->is_trained()) stepped.push_back(parameter);
    for (const SegmentOf& segment : own.back()->spoken_for()) spoken_for.push_back(segment);
    if (mutant("norm_counts_replicas"))
      for (Parameter* parameter : own.back()->parameters())
        for (const Segment& segment : parameter->segments())
          if (parameter->is_trained()) spoken_for.push_back({parameter, &segment});
  }
  optimizer_ = std::make_unique<AdamW>(stepped, optimizer, device_);
  norm_ = std::make_unique<GradientNorm>(spoken_for, mesh_.world().size() == 1 ? nullptr : &mesh_.world(),
                                         device_);
  executor_ = std::make_unique<PipelineExecutor>(schedule(), std::move(own), mesh_);
  if (moe_layers(spec_) == 0) return;
  const ExpertRoom room{batch_.micro_batch * batch_.seq_len / mesh_.size(Axis::cp) / mesh_.size(Axis::tp),
                        mesh_.size(Axis::ep),
                        {layout_.expert_buffer}};
  experts_ = std::make_unique<ExpertBalance>(spec_, balance_, experts(), room, mesh_.world(), device_);
  loads_ = std::make_unique<Mailbox>(device_, static_cast<std::size_t>(experts_->message().numel()));
}

PipelineSchedule Engine::schedule() const {
  const auto microbatches = static_cast<int>(groups_.local_groups * groups_.microbatches_per_group());
  const PipelineShape shape{mesh_.size(Axis::pp), layout_.virtual_stages, microbatches};
  switch (layout_.schedule) {
    case ScheduleKind::interleaved:
      return interleaved_one_f_one_b(shape);
    case ScheduleKind::zero_bubble:
      return zero_bubble(shape);
    case ScheduleKind::one_f_one_b:
      break;
  }
  return one_f_one_b(shape);
}

std::vector<PositionRange> Engine::positions() const {
  return positions_of(batch_.seq_len, mesh_.index(Axis::cp), mesh_.size(Axis::cp));
}

std::vector<std::int64_t> Engine::microbatches() const {
  std::vector<std::int64_t> indices;
  for (std::int64_t g = 0; g < groups_.local_groups; ++g)
    for (std::int64_t i = 0; i < groups_.microbatches_per_group(); ++i)
      indices.push_back(groups_.microbatch(g, i));
  return indices;
}

void Engine::use_graphs() {
  assert(graphs_obstacle(layout_, device_.kind()).empty());
  graphs_ = std::make_unique<StepGraphs>(*chunks_.front(), *optimizer_, *norm_);
}

void Engine::initialize(std::uint64_t seed) {
  for (const auto& chunk : chunks_) chunk->initialize(seed);
}

void Engine::weights_changed() {
  for (const auto& chunk : chunks_) {
    for (Parameter* parameter : chunk->parameters()) parameter->changed();
    chunk->publish();
  }
}

void Engine::run_step(const LoadBatch& load, std::int64_t counted) {
  if (mutant("mean_of_local_counts")) counted += mesh_.index(Axis::dp);
  const float inverse = counted == 0 ? 0.0F : static_cast<float>(1.0 / static_cast<double>(counted));
  const Tensor inverse_count = Tensor::from_host(&inverse, {1}, DType::f32, device_);
  for (const auto& chunk : chunks_)
    chunk->start_step({groups_.local_groups, groups_.microbatches_per_group()});
  if (experts_) experts_->clear();  // what evaluations left
  if (experts_ && balance_.kind == Balance::global) {
    // Shares of the whole batch must be known before the first backward: a forward pass goes ahead to count.
    for (std::size_t i = 0; i < microbatches().size(); ++i) forward(load(i));
    if (!mutant("shares_of_batch_not_known") || mesh_.world().size() == 1) experts_->combine();
    experts_->set_gradient();
    experts_->clear();
  }
  const Tensor losses = run_microbatches(load, inverse_count);
  mesh_.world().set_position("sums of gradients");
  for (const auto& chunk : chunks_) chunk->finish_step();
  add_tied_gradients();
  if (experts_) experts_->combine();
  loss_ = combine_losses(losses);
}

Tensor Engine::run_microbatches(const LoadBatch& load, const Tensor& inverse_count) {
  if (graphs_ == nullptr)
    return executor_->run([&](int m) { return load(static_cast<std::size_t>(m)); }, inverse_count);
  const std::int64_t per_group = groups_.microbatches_per_group();
  return graphs_->run_microbatches(load, groups_.local_groups * per_group, per_group, inverse_count);
}

std::vector<Moe*> Engine::experts() const {
  std::vector<Moe*> all;
  for (const auto& chunk : chunks_)
    for (Module* module : chunk->model().modules())
      if (auto* moe = dynamic_cast<Moe*>(module)) all.push_back(moe);
  return all;
}

// Losses of a group add up over its microbatches, then over the ranks that share it, then in the tree over
// groups, whoever ran which.
void Engine::lay_out_losses() {
  const int ranks = mesh_.world().size();
  std::vector<std::pair<std::int64_t, std::int32_t>> places;  // group, then where its sum is
  for (int rank = 0; rank < ranks; ++rank) {
    const MeshPlace place = place_of(mesh_.shape(), rank);
    const int dp = place[static_cast<std::size_t>(Axis::dp)];
    const ReduceGroups theirs = plan_reduce_groups(batch_.global_batch, batch_.micro_batch, groups_.groups,
                                                   mesh_.size(Axis::dp), dp, groups_.stride > 1);
    for (std::int64_t g = 0; g < groups_.local_groups; ++g)
      places.emplace_back(theirs.group(g), static_cast<std::int32_t>(rank * groups_.local_groups + g));
  }
  std::sort(places.begin(), places.end());
  std::vector<std::int32_t> order;
  for (const auto& [group, at] : places) order.push_back(at);
  loss_order_ =
      Tensor::from_host(order.data(), {static_cast<std::int64_t>(order.size())}, DType::i32, device_);
}

Tensor Engine::combine_losses(const Tensor& own) const {
  const Tensor mine = sum_runs(own, {}, groups_.microbatches_per_group());
  const int ranks = mesh_.world().size();
  Tensor all = mine;
  if (ranks > 1) {
    all = Tensor::empty({ranks * groups_.local_groups}, DType::f64, device_);
    mesh_.world().all_gather(all, mine);
  }
  return sum_by_runs(sum_runs(all, loss_order_, ranks / mesh_.size(Axis::dp)), 2);
}

// A tied matrix is used at both ends of the model; each use has its own sum, and the two add up: on one rank,
// or between the first stage and the last, which update their copies alike.
void Engine::add_tied_gradients() {
  if (!spec_.tied || (mutant("tied_gradient_lost") && mesh_.size(Axis::pp) > 1)) return;
  ProcessGroup& stages = mesh_.group(Axis::pp);
  Bucket* embedding = chunks_.front()->tied_embedding();
  Bucket* head = chunks_.back()->tied_head();
  if (stages.size() == 1) {
    add_into(embedding->owned_sum(), head->owned_sum());
    return;
  }
  const bool first = stages.rank() == 0;
  if (!first && stages.rank() != stages.size() - 1) return;
  const Tensor& mine = (first ? embedding : head)->owned_sum();
  const int other = first ? stages.size() - 1 : 0;
  constexpr int tied_tag = 1 << 24;  // beyond those of activations
  const Tensor theirs = Tensor::empty(mine.shape(), mine.dtype(), device_);
  stages.send(mine, other, tied_tag);
  stages.recv(theirs, other, tied_tag);
  if (mutant("tied_sum_on_first_stage_alone") && !first) return;
  add_into(mine, theirs);
}

// Off the tape. F64 [1] where the head is, this rank's share; else undefined.
Tensor Engine::forward(const Batch& batch) {
  const NoGrad no_grad;
  constexpr int evaluation_tag = 1 << 25;
  ProcessGroup& stages = mesh_.group(Axis::pp);
  const int chunks = stages.size() * layout_.virtual_stages;
  const Shape shape{batch.positions.numel() / mesh_.size(Axis::tp), spec_.hidden_size};
  Tensor loss;
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    const int c = stages.rank() + static_cast<int>(i) * stages.size();
    Tensor x;
    if (c > 0) {
      x = Tensor::empty(shape, chunks_[i]->model().options().compute, device_);
      stages.recv(x, (c - 1) % stages.size(), evaluation_tag + c);
    }
    const Tensor y = chunks_[i]->hidden(x, batch);
    if (c + 1 < chunks)
      stages.send(y, (c + 1) % stages.size(), evaluation_tag + c + 1);
    else
      loss = chunks_[i]->loss(y, batch, one_);
  }
  return loss;
}

double Engine::evaluate(const Batch& batch) {
  // Validation's load may be less even than training's, and the host waits in any case.
  const std::vector<Moe*> mixtures = experts();
  for (Moe* moe : mixtures) moe->dispatcher().let_host_wait(true);
  double loss = 0;
  if (const Tensor own = forward(batch); own.defined()) own.to_host(&loss);
  for (Moe* moe : mixtures) moe->dispatcher().let_host_wait(false);
  for (const Axis axis : {Axis::tp, Axis::cp, Axis::pp}) {
    if (mutant("validation_forgets_cp") && axis == Axis::cp) continue;
    const std::vector<double> shares = mesh_.group(axis).all_gather(loss);
    loss = 0;
    for (const double share : shares) loss += share;
  }
  return loss;
}

double Engine::loss() const {
  double loss = 0;
  loss_.to_host(&loss);
  return loss;
}

EngineReport Engine::next_report() {
  const std::vector<double> numbers = reports_.take();
  // A NaN made by the processor carries a sign, which would be printed.
  const auto unsigned_nan = [](double x) { return std::isnan(x) ? std::abs(x) : x; };
  EngineReport report{{unsigned_nan(numbers[0]), unsigned_nan(numbers[1]), numbers[2]}, {}};
  if (experts_) report.experts = experts_->read(loads_->take());
  return report;
}

ExpertLoad Engine::expert_load() const {
  if (!experts_) return {};
  std::vector<double> host(static_cast<std::size_t>(experts_->message().numel()));
  experts_->message().to_host(host.data());
  return experts_->read(host);
}

void Engine::update(double lr, double max_norm) {
  const Tensor over = experts_ && !mutant("overflow_moves_weights") ? experts_->over() : Tensor();
  if (mutant("clip_on_first_rank_alone") && mesh_.world().rank() > 0) max_norm = 0;
  const Tensor& report = graphs_ ? graphs_->update(loss_, over, lr, max_norm)
                                 : optimizer_->step(loss_, norm_->square_sum(), lr, max_norm, over);
  reports_.post(report);
  if (experts_) loads_->post(experts_->message());
  if (experts_ && balance_.kind == Balance::bias) experts_->move_biases(report.narrow(0, 2, 1));
  mesh_.world().set_position("publishing weights");
  for (const auto& chunk : chunks_) chunk->publish();
}

Engine::Owned Engine::part_of(const Parameter& parameter, const Segment& segment, RowRange rows) const {
  Owned owned;
  owned.name = segment.name;
  owned.global = segment.global;
  owned.row = segment.first_row + rows.begin - segment.begin;
  owned.column = segment.first_column;
  const auto part = [&](const Tensor& all) {
    return all.narrow(0, rows.begin - parameter.owned().begin, rows.size());
  };
  owned.weight = part(parameter.value());
  if (!parameter.is_trained()) return owned;
  const auto stepped = optimizer_->parameters();
  const auto index =
      static_cast<std::size_t>(std::find(stepped.begin(), stepped.end(), &parameter) - stepped.begin());
  if (parameter.gradient().defined() || parameter.has_owned_gradient())
    owned.gradient = part(parameter.owned_gradient());
  owned.first_moment = part(optimizer_->first_moment(index));
  owned.second_moment = part(optimizer_->second_moment(index));
  return owned;
}

std::vector<Engine::Owned> Engine::parts(const std::function<bool(const Segment*)>& wanted) const {
  std::vector<Owned> all;
  for (const auto& chunk : chunks_)
    for (const Parameter* parameter : chunk->parameters())
      for (const Segment& segment : parameter->segments())
        if (const RowRange rows = owned_rows(segment, parameter->owned()); rows.size() > 0)
          if (wanted(&segment)) all.push_back(part_of(*parameter, segment, rows));
  return all;
}

std::vector<Engine::Owned> Engine::held() const {
  return parts([](const Segment*) { return true; });
}

std::vector<Engine::Owned> Engine::owned() const {
  std::set<const Segment*> spoken_for;
  for (const auto& chunk : chunks_) {
    for (const SegmentOf& one : chunk->spoken_for()) spoken_for.insert(one.segment);
    // What is not trained is the same on all ranks of a stage: the first speaks for it.
    for (const Parameter* parameter : chunk->parameters())
      if (!parameter->is_trained() && mesh_.replicas().rank() == 0 && mesh_.index(Axis::tp) == 0)
        for (const Segment& segment : parameter->segments()) spoken_for.insert(&segment);
  }
  return parts([&](const Segment* segment) { return spoken_for.contains(segment); });
}

}  // namespace tessera
