#include "launch/run_state.h"

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>

#include "checkpoint/meta.h"
#include "checkpoint/retention.h"
#include "core/base/activity.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

// Calls visit(name of the state, its values) for all that is saved of a part.
template <class Visit>
void for_each_state(const Engine::Owned& part, Visit visit) {
  visit("weight", part.weight);
  if (!part.first_moment.defined()) return;
  visit("adam_m", part.first_moment);
  visit("adam_v", part.second_moment);
}

Slab slab_of(const Engine::Owned& part) {
  if (part.global.rank() == 1) return {{part.row}, {part.weight.size(0)}};
  return {{part.row, part.column}, {part.weight.size(0), part.weight.size(1)}};
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

constexpr std::int64_t most_reduce_groups = std::int64_t{1} << 20;  // as the config's

// Whatever a manifest says, what is taken from it goes together.
RunPosition position_of(const LoadedCheckpoint& checkpoint) {
  const Json& meta = checkpoint.meta();
  const std::string origin = checkpoint.path().string();
  if (!meta.contains("optimizer_steps"))
    fail("checkpoint '{}' was not made by `tessera train`; use init.from to start from its weights", origin);
  RunPosition position;
  position.step = meta_number(meta, "step", origin, checkpoint.step(), checkpoint.step());
  position.skipped = meta_number(meta, "skipped", origin, 0, position.step);
  const std::int64_t updates = position.step - position.skipped;
  position.optimizer_steps = meta_number(meta, "optimizer_steps", origin, updates, updates);
  position.tokens = meta_number(meta, "tokens", origin);
  position.reduce_groups = meta_number(meta, "reduce_groups", origin, 1, most_reduce_groups);
  return position;
}

Config saved_config(const LoadedCheckpoint& checkpoint) {
  const std::string origin = checkpoint.path().string();
  const Json& config = meta_member(checkpoint.meta(), "config", origin);
  try {
    return config_from_json(config.dump(), origin);
  } catch (const Error& e) {
    fail("{} (in the config that the checkpoint was saved with)", e.what());
  }
}

// Slot to candidate.
std::map<std::string, std::string> kernels_of(const LoadedCheckpoint& checkpoint) {
  const std::string origin = checkpoint.path().string();
  const Json& all = meta_member(checkpoint.meta(), "kernels", origin);
  if (!all.is_object()) fail("{}: 'kernels' is {}; an object is expected", origin, all.type_name());
  std::map<std::string, std::string> kernels;
  for (const auto& [slot, candidate] : all.items()) kernels[slot] = meta_text(all, slot, origin);
  return kernels;
}

// Whether a save may be tried again: an old checkpoint is worth less than a new one. Never the last good one.
bool make_room(const Config& config, const char* cause, Coordination& ranks) {
  std::optional<std::int64_t> gone;
  if (ranks.rank() == 0) try {
      gone = give_up_oldest(config.checkpoint.dir);
    } catch (const Error& e) {
      log::warn("old checkpoints stay: {}", e.what());
    }
  if (gone) log::warn("{}; the oldest checkpoint, of step {}, was removed to make room", cause, *gone);
  return !ranks.agree(!gone);
}

}  // namespace

std::vector<std::string> RankCoordination::gather_text(const std::string& text) {
  std::vector<std::string> all = ranks_.all_gather_text(text);
  return ranks_.rank() == 0 ? all : std::vector<std::string>();
}

std::string RankCoordination::broadcast_text(const std::string& text) {
  return ranks_.all_gather_text(ranks_.rank() == 0 ? text : "").front();
}

void save_run(const Config& config, const RunPosition& position, const Engine& engine,
              const ModelDescription& description, ProcessGroup& ranks) {
  std::vector<StateSlice> mine;
  std::deque<std::vector<float>> copies;  // of what is not in host memory
  for (const Engine::Owned& part : engine.owned())
    for_each_state(part, [&](const char* state, const Tensor& values) {
      const void* data = values.raw();
      if (values.device().kind() != DeviceKind::cpu) {
        std::vector<float>& copy = copies.emplace_back(static_cast<std::size_t>(values.numel()));
        values.to_host(copy.data());
        data = copy.data();
      }
      mine.push_back({part.name, state, DType::f32, dims_of(part.global), slab_of(part), data});
    });
  RankCoordination coordination(ranks);
  const Json meta = meta_of(config, position, description, engine.device().chosen_kernels);
  for (bool saved = false; !saved;) try {
      save_checkpoint(config.checkpoint.dir, position.step, mine, meta, description.files, coordination);
      saved = true;
    } catch (const io::DiskFull& e) {
      if (!make_room(config, e.what(), coordination)) throw;
    }
  if (ranks.rank() != 0) return;
  try {
    apply_retention(config.checkpoint.dir, static_cast<int>(config.checkpoint.keep), position.step);
  } catch (const Error& e) {
    log::warn("old checkpoints stay: {}", e.what());
  }
}

std::optional<SavedRun> find_run(const Config& config, ProcessGroup& ranks) {
  set_position("start: looking for checkpoints");
  const DoingScope scope(Doing::uses_storage, "search of", config.checkpoint.dir);
  RankCoordination coordination(ranks);
  const auto warn = [](const std::string& line) { log::warn("{}", line); };
  if (ranks.rank() == 0)
    clear_leftovers(config.checkpoint.dir, [](const std::string& line) { log::info("{}", line); });
  const auto checkpoint = open_newest(config.checkpoint.dir, warn, true, coordination);
  if (!checkpoint) {
    if (!list_checkpoints(config.checkpoint.dir).empty())
      fail("no checkpoint in '{}' is good; to begin at step 0 remove them or use another checkpoint.dir",
           config.checkpoint.dir);
    return std::nullopt;
  }
  const RunPosition position = position_of(*checkpoint);
  const Config saved = saved_config(*checkpoint);
  if (const auto differences = identity_differences(saved, config); !differences.empty()) {
    std::string list;
    for (const std::string& difference : differences) list += (list.empty() ? "" : ", ") + difference;
    fail_usage("'{}' holds another run: {} differ; change them back, or use another checkpoint.dir",
               config.checkpoint.dir, list);
  }
  return SavedRun{*checkpoint, saved, position, kernels_of(*checkpoint)};
}

void load_run(const SavedRun& saved, Engine& engine) {
  const LoadedCheckpoint& checkpoint = saved.checkpoint;
  set_position("start: reading the checkpoint");
  const DoingScope scope(Doing::uses_storage, "read of", checkpoint.path());
  for (const Engine::Owned& part : engine.held())
    for_each_state(part, [&](const char* state, const Tensor& values) {
      const TensorInfo* info = checkpoint.find(part.name, state);
      if (info == nullptr)
        fail("checkpoint '{}' lacks {} of tensor '{}'", checkpoint.path().string(), state, part.name);
      if (info->shape != dims_of(part.global) || info->dtype != DType::f32)
        fail("checkpoint '{}': tensor '{}' has another shape than the model's {}", checkpoint.path().string(),
             part.name, part.global.text());
      if (values.device().kind() == DeviceKind::cpu) {
        checkpoint.read(part.name, state, slab_of(part), values.raw());
        return;
      }
      std::vector<float> host(static_cast<std::size_t>(values.numel()));
      checkpoint.read(part.name, state, slab_of(part), host.data());
      values.device().copy(values.raw(), host.data(), values.bytes());
    });
  engine.weights_changed();
  engine.optimizer().set_steps(saved.position.optimizer_steps);
}

}  // namespace tessera
