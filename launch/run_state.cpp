#include "launch/run_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/retention.h"
#include "core/base/log.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

// Calls visit(segment's name, state, its part of the fused tensor) for all that a run holds, in one order.
template <class Visit>
void for_each_state(const AdamW& optimizer, Visit visit) {
  const auto parameters = optimizer.parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i)
    for (const Segment& segment : parameters[i]->segments()) {
      const auto part = [&](const Tensor& fused) { return fused.narrow(0, segment.begin, segment.rows); };
      visit(segment.name, "weight", part(parameters[i]->value()));
      visit(segment.name, "adam_m", part(optimizer.first_moment(i)));
      visit(segment.name, "adam_v", part(optimizer.second_moment(i)));
    }
}

Json meta_of(const Config& config, const RunPosition& position, const ModelDescription& description,
             const std::map<std::string, std::string>& kernels) {
  Json meta = Json::object();
  meta["config"] = Json::parse(config_json(config));
  meta["model"] = model_meta(description);
  meta["step"] = position.step;
  meta["optimizer_steps"] = position.optimizer_steps;
  meta["tokens"] = position.tokens;
  meta["skipped"] = position.skipped;
  meta["reduce_groups"] = position.reduce_groups;
  meta["data"] = {{"samples", position.step * config.train.global_batch},
                  {"source_samples", position.source_samples}};
  meta["kernels"] = kernels;
  return meta;
}

RunPosition position_of(const LoadedCheckpoint& checkpoint) {
  try {
    const Json& meta = checkpoint.meta();
    RunPosition position;
    position.step = checkpoint.step();
    position.optimizer_steps = meta.at("optimizer_steps").get<std::int64_t>();
    position.tokens = meta.at("tokens").get<std::int64_t>();
    position.skipped = meta.at("skipped").get<std::int64_t>();
    position.reduce_groups = meta.at("reduce_groups").get<std::int64_t>();
    return position;
  } catch (const nlohmann::json::exception&) {
    fail("checkpoint '{}' was not made by `tessera train`; use init.from to start from its weights",
         checkpoint.path().string());
  }
}

}  // namespace

std::vector<std::string> RankCoordination::gather_text(const std::string& text) {
  std::vector<std::string> all = ranks_.all_gather_text(text);
  return ranks_.rank() == 0 ? all : std::vector<std::string>();
}

std::string RankCoordination::broadcast_text(const std::string& text) {
  return ranks_.all_gather_text(ranks_.rank() == 0 ? text : "").front();
}

void save_run(const Config& config, const RunPosition& position, const AdamW& optimizer,
              const ModelDescription& description, const std::map<std::string, std::string>& kernels,
              ProcessGroup& ranks) {
  std::vector<StateSlice> mine;
  std::vector<std::size_t> bytes(static_cast<std::size_t>(ranks.size()));
  for_each_state(optimizer, [&](const std::string& name, const char* state, const Tensor& values) {
    const auto least = std::min_element(bytes.begin(), bytes.end());
    *least += values.bytes();
    if (least - bytes.begin() != ranks.rank()) return;
    const auto shape = dims_of(values.shape());
    mine.push_back({name, state, DType::f32, shape, whole(shape), values.raw()});
  });
  RankCoordination coordination(ranks);
  save_checkpoint(config.checkpoint.dir, position.step, mine, meta_of(config, position, description, kernels),
                  description.files, coordination);
  if (ranks.rank() != 0) return;
  try {
    apply_retention(config.checkpoint.dir, static_cast<int>(config.checkpoint.keep), position.step);
  } catch (const Error& e) {
    log::warn("old checkpoints stay: {}", e.what());
  }
}

std::optional<RunPosition> load_run(const Config& config, AdamW& optimizer, ProcessGroup& ranks,
                                    std::map<std::string, std::string>& kernels) {
  RankCoordination coordination(ranks);
  const auto warn = [](const std::string& line) { log::warn("{}", line); };
  if (ranks.rank() == 0) clear_leftovers(config.checkpoint.dir);
  const auto checkpoint = open_newest(config.checkpoint.dir, warn, true, coordination);
  if (!checkpoint) {
    if (!list_checkpoints(config.checkpoint.dir).empty())
      fail("no checkpoint in '{}' is good; to begin at step 0 remove them or use another checkpoint.dir",
           config.checkpoint.dir);
    return std::nullopt;
  }
  const RunPosition position = position_of(*checkpoint);
  const Config saved = config_from_json(checkpoint->meta().at("config").dump(), checkpoint->path().string());
  if (const auto differences = identity_differences(saved, config); !differences.empty()) {
    std::string list;
    for (const std::string& difference : differences) list += (list.empty() ? "" : ", ") + difference;
    fail_usage("'{}' holds another run: {} differ; change them back, or use another checkpoint.dir",
               config.checkpoint.dir, list);
  }
  for_each_state(optimizer, [&](const std::string& name, const char* state, const Tensor& values) {
    const TensorInfo* info = checkpoint->find(name, state);
    if (info == nullptr)
      fail("checkpoint '{}' lacks {} of tensor '{}'", checkpoint->path().string(), state, name);
    if (info->shape != dims_of(values.shape()) || info->dtype != DType::f32)
      fail("checkpoint '{}': tensor '{}' has another shape than the model's {}", checkpoint->path().string(),
           name, values.shape().text());
    checkpoint->read_whole(name, state, values.raw());
  });
  for (Parameter* parameter : optimizer.parameters()) parameter->changed();
  optimizer.set_steps(position.optimizer_steps);
  for (const auto& [slot, candidate] : checkpoint->meta().at("kernels").items())
    kernels[slot] = candidate.get<std::string>();
  return position;
}

}  // namespace tessera
