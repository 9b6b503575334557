#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/store.h"
#include "core/base/error.h"

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

ModelSource open_from_checkpoint(const fs::path& path) {
  LoadedCheckpoint checkpoint = open_checkpoint(path);
  const std::string origin = checkpoint.path().string();
  const auto meta = checkpoint.meta().find("model");
  if (meta == checkpoint.meta().end() || !meta->is_object() || !meta->contains("config") ||
      !meta->contains("dtype") || !meta->at("dtype").is_string())
    fail("{}: the manifest does not describe the model", origin);
  ModelDescription description{read_release_config(meta->at("config"), origin),
                               dtype_from_name(meta->at("dtype").get<std::string>()),
                               {}};
  for (const char* name : release_attachments)
    if (const auto file = checkpoint.files().find(name); file != checkpoint.files().end())
      description.files.insert(*file);
  const std::vector<LogicalTensor> tensors = logical_tensors(description.release.spec);
  std::vector<std::string> beyond;
  for (const TensorInfo& info : checkpoint.tensors())
    if (info.state == "weight" &&
        std::none_of(tensors.begin(), tensors.end(),
                     [&](const LogicalTensor& tensor) { return tensor.name == info.name; }))
      beyond.push_back(info.name);
  for (const LogicalTensor& tensor : tensors) {
    const TensorInfo* const info = checkpoint.find(tensor.name, "weight");
    if (info == nullptr) fail("{}: tensor '{}' is missing", origin, tensor.name);
    if (info->shape != tensor.shape || info->dtype != DType::f32)
      fail("{}: tensor '{}' is {} {}; F32 {} is expected", origin, tensor.name, name(info->dtype),
           text(info->shape), text(tensor.shape));
  }
  return {std::move(description), origin, std::make_shared<CheckpointReader>(std::move(checkpoint)),
          std::move(beyond)};
}

}  // namespace

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
