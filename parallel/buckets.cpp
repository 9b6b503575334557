#include "parallel/buckets.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "core/base/mutant.h"
#include "core/tensor/device.h"
#include "core/tensor/elementwise.h"
#include "parallel/grad_norm.h"

namespace tessera {
namespace {

constexpr std::int64_t line = 16;  // elements: parameters begin on cache lines

std::int64_t padded(std::int64_t elements) {
  return (elements + line - 1) / line * line;
}

bool is_cut(const Parameter& parameter) {
  return parameter.layout().cut != Layout::Cut::none;
}

}  // namespace

Bucket::Bucket(std::vector<Parameter*> parameters, const ReplicaGroups& ranks, int zero,
               std::vector<std::int64_t>& spoken_for)
    : parameters_(std::move(parameters)),
      ranks_(ranks),
      zero_(ranks.all->size() == 1 ? 0 : zero),
      device_(parameters_.at(0)->device()) {
  std::stable_partition(parameters_.begin(), parameters_.end(), [](Parameter* p) { return !is_cut(*p); });
  lay_out();
  cut();
  choose_speakers(spoken_for);
  bind_values();
  for (Parameter* parameter : parameters_) {
    if (zero_ < 2) continue;
    parameter->on_missing_gradient([this] { make_gradient(); });
  }
  if (zero_ < 2) make_gradient();
}

void Bucket::lay_out() {
  for (const Parameter* parameter : parameters_) {
    places_.push_back({size_, size_ + parameter->shape().numel()});
    size_ += padded(parameter->shape().numel());
    if (!is_cut(*parameter)) uncut_ = size_;
  }
}

// Parts as even as whole blocks of rows allow: each begins at the first block at or after its share.
void Bucket::cut() {
  const auto owners = static_cast<std::int64_t>(zero_ == 0 ? 1 : ranks_.all->size());
  std::vector<std::int64_t> begins;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    for (const Segment& segment : parameters_[i]->segments())
      for (std::int64_t row = 0; row < segment.rows; row += norm_block_rows)
        begins.push_back(places_[i].begin + (segment.begin + row) * parameters_[i]->columns());
  begins.push_back(size_);
  const auto owner_cuts = [&](std::int64_t count) {
    std::vector<std::int64_t> cuts;
    for (std::int64_t r = 0; r < count; ++r)
      cuts.push_back(*std::lower_bound(begins.begin(), begins.end(), size_ * r / count));
    cuts.push_back(size_);
    return cuts;
  };
  // Without ZeRO every rank owns all rows; the sum over ranks is still taken in parts.
  cuts_ = owner_cuts(ranks_.all->size());
  index_ = static_cast<std::size_t>(ranks_.all->rank());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const std::int64_t columns = parameters_[i]->columns();
    const std::int64_t rows = parameters_[i]->shape()[0];
    const auto row_at = [&](std::int64_t at) {
      return std::clamp<std::int64_t>((at - places_[i].begin + columns - 1) / columns, 0, rows);
    };
    owned_.push_back(owners == 1 ? RowRange{0, rows} : RowRange{row_at(own().begin), row_at(own().end)});
  }
}

// All ranks hold all rows: each speaks for some segments, of about as many elements as the others'.
void Bucket::choose_speakers(std::vector<std::int64_t>& spoken_for) {
  if (zero_ != 0) return;
  spoken_for.resize(static_cast<std::size_t>(ranks_.all->size()));
  for (const Parameter* parameter : parameters_)
    for (const Segment& segment : parameter->segments()) {
      if (parameter->is_copy()) continue;
      const auto least = std::min_element(spoken_for.begin(), spoken_for.end());
      *least += segment.rows * parameter->columns();
      speakers_[&segment] = least - spoken_for.begin();
    }
}

void Bucket::bind_values() {
  if (zero_ == 0) return;
  const DType compute = parameters_[0]->compute_dtype();
  const MemoryScope scope(device_, MemoryUse::weights);
  if (zero_ < 3) views_ = Tensor::zeros({size_}, compute, device_);
  if (zero_ == 3 || compute != DType::f32)
    masters_ = Tensor::zeros({own().end - own().begin}, DType::f32, device_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    if (parameter.is_shared()) continue;
    const Tensor values = masters_.defined() ? owned_slice(masters_, i)
                                             : slice(views_, i).narrow(0, owned_[i].begin, owned_[i].size());
    parameter.bind_value(values, owned_[i]);
    parameter.bind_view(views_.defined() ? slice(views_, i) : Tensor());
  }
}

Tensor Bucket::slice(const Tensor& flat, std::size_t parameter) const {
  const Place& place = places_[parameter];
  return flat.narrow(0, place.begin, place.end - place.begin).view(parameters_[parameter]->shape());
}

// A parameter's owned rows, of a tensor that holds only what is owned.
Tensor Bucket::owned_slice(const Tensor& shard, std::size_t parameter) const {
  const RowRange rows = owned_[parameter];
  const std::int64_t columns = parameters_[parameter]->columns();
  Shape shape = parameters_[parameter]->shape();
  shape[0] = rows.size();
  if (rows.size() == 0) return shard.narrow(0, 0, 0).view(shape);
  std::int64_t begin = places_[parameter].begin + rows.begin * columns - own().begin;
  if (mutant("owned_rows_off_by_one") && begin > 0) begin -= columns;
  return shard.narrow(0, begin, rows.size() * columns).view(shape);
}

bool Bucket::speaks_for(const Parameter& parameter, const Segment& segment) const {
  if (parameter.is_copy()) return false;
  if (zero_ == 0 && speakers_.at(&segment) != ranks_.all->rank()) return false;
  if (!is_cut(parameter)) return ranks_.same_values->rank() == 0;
  return segment.replicas == 1 || ranks_.same_heads->rank() == 0;
}

void Bucket::make_gradient() {
  const MemoryScope scope(device_, MemoryUse::gradients);
  if (!gradient_.defined()) gradient_ = Tensor::zeros({size_}, DType::f32, device_);
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (!parameters_[i]->gradient().defined()) parameters_[i]->bind_gradient(slice(gradient_, i));
}

void Bucket::start_step(const GroupCount& count) {
  count_ = count;
  microbatches_ = 0;
  owned_sum_ = Tensor();
  sum_ = std::make_unique<TreeAccumulator>(count.groups);
  for (Parameter* parameter : parameters_) {
    parameter->clear_gradient();
    parameter->bind_owned_gradient({});
  }
}

void Bucket::note_written() {
  if (written_.empty())
    for (const Parameter* parameter : parameters_) written_.push_back(parameter->gradient_written());
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (written_[i]) parameters_[i]->gradient_sink();
}

void Bucket::microbatch_done() {
  if (++microbatches_ % count_.microbatches == 0) return finish_group();
  for (Parameter* parameter : parameters_)
    if (mutant("microbatch_overwrites_group") && ranks_.all->size() > 1) parameter->clear_gradient();
}

void Bucket::finish_group() {
  make_gradient();
  for (Parameter* parameter : parameters_) {
    if (!parameter->gradient_written())
      device_.zero(parameter->gradient().raw(), parameter->gradient().bytes());
    parameter->clear_gradient();
  }
  sum_over_tensor_ranks();
  if (mutant("odd_group_lost") && count_.groups % 2 == 1 && count_.groups > 1 &&
      microbatches_ == count_.groups * count_.microbatches)
    device_.zero(gradient_.raw(), gradient_.bytes());
  if (zero_ < 2) {
    sum_->push(gradient_);
    return;
  }
  for (ProcessGroup* group : ranks_.stages) group->join();  // one whole gradient at a time is on its way
  // A copy: the part would keep the whole alive.
  sum_over_replicas(gradient_, [this](const Tensor& owned) {
    const MemoryScope scope(device_, MemoryUse::gradients);
    sum_->push(contiguous_copy(owned));
  });
  gradient_ = Tensor();
  for (Parameter* parameter : parameters_) parameter->bind_gradient({});
}

void Bucket::await_sum() {
  while (!summing_.empty()) {  // one stage may begin another
    const auto [group, number] = summing_.front();
    summing_.pop_front();
    group->join(number);
  }
}

void Bucket::sum_over_tensor_ranks() {
  const Tensor uncut = gradient_.narrow(0, 0, uncut_);
  const Tensor own =
      mutant("qk_norms_not_summed") || mutant("router_not_summed") ? contiguous_copy(gradient_) : Tensor();
  if (uncut_ > 0 && ranks_.same_values->size() > 1 && !mutant("sum_over_tp_forgotten"))
    ranks_.same_values->all_reduce(uncut);
  for (std::size_t i = 0; own.defined() && i < parameters_.size(); ++i)
    if (parameters_[i]->name().find(mutant("router_not_summed") ? ".router." : ".q_norm.") !=
        std::string::npos)
      slice(gradient_, i).copy_from(slice(own, i));
  if (uncut_ > 0 && mutant("sum_over_tp_doubled")) ranks_.same_values->all_reduce(uncut);
  if (ranks_.same_heads == nullptr || mutant("kv_copies_not_summed")) return;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    for (const Segment& segment : parameters_[i]->segments())
      if (segment.replicas > 1)
        ranks_.same_heads->all_reduce(slice(gradient_, i).narrow(0, segment.begin, segment.rows));
}

// In place, stage by stage, beside other work: `then` is given what this rank owns of the sum.
void Bucket::sum_over_replicas(const Tensor& flat, const std::function<void(const Tensor& owned)>& then) {
  sum_stages(flat, 0, {0, std::ssize(cuts_) - 1}, then);
}

// The stages from `first`, of which this rank has the sums of parts `held`.
void Bucket::sum_stages(const Tensor& flat, std::size_t first, Place held,
                        const std::function<void(const Tensor& owned)>& then) {
  if (first == ranks_.stages.size()) {
    assert(held.begin == static_cast<std::int64_t>(index_) && held.end == held.begin + 1);
    const Tensor sum = flat.narrow(0, own().begin, own().end - own().begin);
    if (mutant("mean_over_ranks")) {
      const float share = 1.0F / static_cast<float>(ranks_.all->size());
      scale(sum, Tensor::from_host(&share, {1}, DType::f32, device_));
    }
    then(sum);
    return;
  }
  ProcessGroup& group = *ranks_.stages[first];
  const std::int64_t each = (held.end - held.begin) / group.size();
  std::vector<Tensor> parts;
  for (std::int64_t r = 0; r < group.size(); ++r) {
    const std::int64_t from = cuts_[static_cast<std::size_t>(held.begin + r * each)];
    const std::int64_t to = cuts_[static_cast<std::size_t>(held.begin + (r + 1) * each)];
    parts.push_back(flat.narrow(0, from, to - from));
  }
  const std::int64_t begin = held.begin + group.rank() * each;
  const auto next = [this, flat, first, begin, each, then] {
    sum_stages(flat, first + 1, {begin, begin + each}, then);
  };
  const bool forgotten =
      (mutant("experts_not_reduced") && parameters_[0]->layout().ranks == Layout::Ranks::expert) ||
      (mutant("sum_over_dp_forgotten") && first == 0);
  if (group.size() == 1 || forgotten) return next();
  const auto call = [&] { group.reduce_scatter(parts[static_cast<std::size_t>(group.rank())], parts); };
  summing_.emplace_back(&group, group.defer(call, next));
}

std::vector<Tensor> Bucket::parts_of(const Tensor& flat) const {
  std::vector<Tensor> parts;
  for (std::size_t r = 0; r + 1 < cuts_.size(); ++r)
    parts.push_back(flat.narrow(0, cuts_[r], cuts_[r + 1] - cuts_[r]));
  return parts;
}

void Bucket::finish_step() {
  assert(microbatches_ == count_.groups * count_.microbatches);
  await_sum();  // of its last group
  const Tensor sum = sum_->finish();
  sum_.reset();
  if (zero_ < 2) {
    sum_over_replicas(sum, [this, sum](const Tensor& owned) {
      owned_sum_ = owned;
      if (zero_ != 0 || ranks_.all->size() == 1) return;
      ranks_.all->all_gather(parts_of(sum), owned_sum_);
      owned_sum_ = sum;
    });
    return;
  }
  owned_sum_ = sum;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    parameters_[i]->bind_owned_gradient(owned_slice(owned_sum_, i));
}

void Bucket::publish() {
  if (zero_ == 3) drop();
  if (zero_ == 0 || zero_ == 3 || parameters_[0]->is_shared()) return;
  const std::vector<Tensor> parts = parts_of(views_);
  if (masters_.defined() && !mutant("views_not_converted")) convert(masters_, parts[index_]);
  if (mutant("new_weights_not_published")) return;
  fetching_ = ranks_.all->defer([&] { ranks_.all->all_gather(parts, parts[index_]); });
}

void Bucket::fetch() {
  if (zero_ != 3 || views_.defined() || parameters_[0]->is_shared()) return;
  const MemoryScope scope(device_, MemoryUse::weights);
  views_ = Tensor::empty({size_}, parameters_[0]->compute_dtype(), device_);
  const std::vector<Tensor> parts = parts_of(views_);
  convert(masters_, parts[index_]);
  fetching_ = ranks_.all->defer([&] { ranks_.all->all_gather(parts, parts[index_]); });
}

// Parameters have no view until then, and ask for it (Parameter::on_missing_view).
void Bucket::await_fetched() {
  if (fetching_ == 0) return;
  ranks_.all->join(std::exchange(fetching_, 0));
  if (zero_ != 3) return;
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i]->bind_view(slice(views_, i));
}

void Bucket::drop() {
  if (zero_ != 3 || parameters_[0]->is_shared()) return;
  await_fetched();
  views_ = Tensor();
  for (Parameter* parameter : parameters_) parameter->bind_view({});
}

}  // namespace tessera
