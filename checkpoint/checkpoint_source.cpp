#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/meta.h"
#include "checkpoint/model_source.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/hash.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

class CheckpointReader : public ModelSource::Reader {
 public:
  explicit CheckpointReader(LoadedCheckpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  void read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
            std::span<float> out) const override {
    Slab slab = whole(tensor.shape);
    slab.offset[0] = first;
    slab.extent[0] = rows;
    checkpoint_.read(tensor.name, "weight", slab, out.data());
  }

 private:
  LoadedCheckpoint checkpoint_;
};

DType dtype_of(const Json& model, const std::string& origin) {
  try {
    return dtype_from_name(meta_text(model, "dtype", origin));
  } catch (const Error& e) {
    fail("{}: the manifest does not describe the model: {}", origin, e.what());
  }
}

// Of an import, nothing.
std::optional<TrainedBy> trained_by(const LoadedCheckpoint& checkpoint) {
  const Json& meta = checkpoint.meta();
  const std::string origin = checkpoint.path().string();
  if (!meta.contains("config")) return std::nullopt;
  const Json& config = meta.at("config");
  const fs::path dir = meta_text(meta_member(config, "checkpoint", origin), "dir", origin);
  return TrainedBy{(dir.has_filename() ? dir : dir.parent_path()).filename().string(),
                   sha256_hex(bytes_of(config.dump())), checkpoint.step(),
                   meta_number(meta, "tokens", origin)};
}

ModelSource open_from_checkpoint(const fs::path& path) {
  LoadedCheckpoint checkpoint = open_checkpoint(path);
  const std::string origin = checkpoint.path().string();
  const auto meta = checkpoint.meta().find("model");
  if (meta == checkpoint.meta().end() || !meta->is_object() || !meta->contains("config"))
    fail("{}: the manifest does not describe the model", origin);
  ModelDescription description{
      read_release_config(meta->at("config"), origin), dtype_of(*meta, origin), {}, trained_by(checkpoint)};
  for (const char* name : release_attachments)
    if (const auto file = checkpoint.files().find(name); file != checkpoint.files().end())
      description.files.insert(*file);
  return checkpoint_source(std::move(checkpoint), std::move(description));
}

}  // namespace

ModelSource checkpoint_source(LoadedCheckpoint checkpoint, ModelDescription description) {
  const std::string origin = checkpoint.path().string();
  std::set<std::string> known;
  visit_logical_tensors(description.release.spec, [&](const LogicalTensor& tensor) {
    known.insert(tensor.name);
    const TensorInfo* const info = checkpoint.find(tensor.name, "weight");
    if (info == nullptr) fail("{}: tensor '{}' is missing", origin, tensor.name);
    if (info->shape != tensor.shape || info->dtype != DType::f32)
      fail("{}: tensor '{}' is {} {}; F32 {} is expected", origin, tensor.name, name(info->dtype),
           text(info->shape), text(tensor.shape));
  });
  std::vector<LogicalTensor> beyond;
  for (const TensorInfo& info : checkpoint.tensors())
    if (info.state == "weight" && !known.contains(info.name)) beyond.push_back({info.name, info.shape});
  return {std::move(description), origin, std::make_shared<CheckpointReader>(std::move(checkpoint)),
          std::move(beyond)};
}

ModelSource open_model(const fs::path& path) {
  if (!fs::exists(path)) fail("'{}' does not exist", path.string());
  if (is_checkpoint(path)) return open_from_checkpoint(path);
  if (fs::is_directory(path) && !fs::exists(path / "config.json"))
    fail(
        "'{}' is neither a checkpoint nor a Hugging Face directory: it has no manifest.json and no "
        "config.json",
        path.string());
  return open_release(path);
}

}  // namespace tessera
