#include "checkpoint/model_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/safetensors.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/mutant.h"
#include "core/tensor/device.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t block_elements = std::size_t{1} << 22;
constexpr std::uint64_t largest_attachment = std::uint64_t{256} << 20;

// What a release may hold besides weights and config.json, and is carried along.
constexpr const char* attachments[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "generation_config.json",
                                       "LICENSE",
                                       "LICENSE.txt",
                                       "LICENSE.md",
                                       "NOTICE",
                                       "USE_POLICY.md",
                                       "README.md"};

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

class ReleaseReader : public ModelSource::Reader {
 public:
  ReleaseReader(SafetensorsRelease release, const Family& family)
      : release_(std::move(release)), family_(family) {}
  void read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
            std::span<float> out) const override {
    const auto* const located = release_.find(*release_name(family_, tensor.name));
    located->file.read_floats(*located->tensor, first * (static_cast<std::int64_t>(out.size()) / rows), out);
  }

 private:
  SafetensorsRelease release_;
  const Family& family_;
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string result = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) result += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return result + "]";
}

// Rotary frequencies that old releases stored; every reader computes them.
bool is_derived(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

// A tied model's file may repeat the embedding as its head, and then it must be the same.
void check_tied_head(const SafetensorsRelease& release, const std::string& head,
                     const std::string& embedding) {
  const auto* const a = release.find(head);
  const auto* const b = release.find(embedding);
  bool same = a->tensor->shape == b->tensor->shape;
  const std::int64_t total = a->tensor->numel();
  std::vector<float> x;
  std::vector<float> y;
  for (std::int64_t at = 0; same && at < total; at += static_cast<std::int64_t>(block_elements)) {
    const auto count =
        static_cast<std::size_t>(std::min(total - at, static_cast<std::int64_t>(block_elements)));
    x.resize(count);
    y.resize(count);
    a->file.read_floats(*a->tensor, at, x);
    b->file.read_floats(*b->tensor, at, y);
    same = x == y;
  }
  if (!same)
    fail(
        "{}: config.json ties the head to the embedding, but '{}' differs from '{}'; set "
        "tie_word_embeddings to false",
        release.path().string(), head, embedding);
}

DType check_release(const SafetensorsRelease& release, const ReleaseConfig& config) {
  const std::string origin = release.path().string();
  std::set<std::string> wanted;
  std::optional<DType> dtype;
  for (const LogicalTensor& tensor : logical_tensors(config.spec)) {
    const auto name = release_name(*config.family, tensor.name);
    if (!name) fail("{}: family {} has no name for '{}'", origin, config.family->model_type, tensor.name);
    const auto* const located = release.find(*name);
    if (located == nullptr)
      fail("{}: tensor '{}' is missing{}", origin, *name,
           tensor.name == "head.weight" ? "; if the head is the embedding, config.json must say "
                                          "tie_word_embeddings: true"
                                        : "");
    if (located->tensor->shape != tensor.shape)
      fail("{}: tensor '{}' has shape {}; config.json asks for {}", origin, *name,
           shape_text(located->tensor->shape), shape_text(tensor.shape));
    const DType stored = located->tensor->dtype;
    if (stored != DType::f32 && stored != DType::bf16 && stored != DType::f16)
      fail("{}: tensor '{}' is {}; F32, BF16 or F16 is needed", origin, *name, tessera::name(stored));
    // Mixed releases are kept whole by the widest type.
    dtype = !dtype || *dtype == stored ? stored : DType::f32;
    wanted.insert(*name);
  }
  const std::string head = *release_name(*config.family, "head.weight");
  for (const std::string& name : release.names()) {
    if (wanted.contains(name) || is_derived(name)) continue;
    if (config.spec.tied && name == head) {
      check_tied_head(release, head, *release_name(*config.family, "embedding.weight"));
      continue;
    }
    fail("{}: tensor '{}' belongs to no part of a {} model with this config.json", origin, name,
         config.family->model_type);
  }
  return *dtype;
}

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
  for (const char* name : attachments)
    if (const auto file = checkpoint.files().find(name); file != checkpoint.files().end())
      description.files.insert(*file);
  for (const LogicalTensor& tensor : logical_tensors(description.release.spec)) {
    const TensorInfo* const info = checkpoint.find(tensor.name, "weight");
    if (info == nullptr) fail("{}: tensor '{}' is missing", origin, tensor.name);
    if (info->shape != tensor.shape || info->dtype != DType::f32)
      fail("{}: tensor '{}' is {} {}; F32 {} is expected", origin, tensor.name, name(info->dtype),
           shape_text(info->shape), shape_text(tensor.shape));
  }
  return {std::move(description), origin, std::make_shared<CheckpointReader>(std::move(checkpoint))};
}

}  // namespace

Json model_meta(const ModelDescription& description) {
  Json meta = Json::object();
  meta["config"] = *description.release.config;
  meta["dtype"] = name(description.dtype);
  return meta;
}

std::vector<LogicalTensor> logical_tensors(const ModelSpec& spec) {
  const auto device = make_device(DeviceKind::meta);
  const Model model(spec, *device, {});
  std::vector<LogicalTensor> result;
  for (const Parameter* parameter : model.parameters())
    for (const Segment& segment : parameter->segments()) {
      const Shape shape = parameter->segment_shape(segment);
      LogicalTensor tensor{segment.name, {}};
      for (int i = 0; i < shape.rank(); ++i) tensor.shape.push_back(shape[i]);
      result.push_back(std::move(tensor));
    }
  return result;
}

std::optional<std::string> release_name(const Family& family, const std::string& logical) {
  auto name = hugging_face_name(family, logical);
  if (name && mutant("swap_gate_up")) {
    if (const std::size_t at = name->find("gate_proj"); at != std::string::npos)
      name->replace(at, 9, "up_proj");
    else if (const std::size_t up = name->find("up_proj"); up != std::string::npos)
      name->replace(up, 7, "gate_proj");
  }
  return name;
}

ModelSource::ModelSource(ModelDescription description, std::string origin,
                         std::shared_ptr<const Reader> reader)
    : description_(std::make_shared<const ModelDescription>(std::move(description))),
      origin_(std::move(origin)),
      reader_(std::move(reader)) {}

void ModelSource::read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
                       std::span<float> out) const {
  reader_->read(tensor, first, rows, out);
}

ModelSource open_release(const fs::path& dir) {
  if (!fs::is_directory(dir)) fail("'{}' is not a directory", dir.string());
  const fs::path config = dir / "config.json";
  if (!fs::exists(config))
    fail("'{}' is neither a checkpoint nor a Hugging Face directory: it has no config.json", dir.string());
  ModelDescription description{
      read_release_config(read_json(config, std::uint64_t{16} << 20), config.string()), DType::f32, {}};
  SafetensorsRelease release = SafetensorsRelease::open(dir);
  description.dtype = check_release(release, description.release);
  for (const char* name : attachments)
    if (fs::is_regular_file(dir / name))
      description.files[name] = io::read_text(dir / name, largest_attachment);
  const Family& family = *description.release.family;
  return {std::move(description), dir.string(), std::make_shared<ReleaseReader>(std::move(release), family)};
}

ModelSource open_model(const fs::path& path) {
  if (!fs::exists(path)) fail("'{}' does not exist", path.string());
  return is_checkpoint(path) ? open_from_checkpoint(path) : open_release(path);
}

void load_parameters(Model& model, const ModelSource& source, DType rounded_to) {
  std::vector<float> block;
  std::vector<std::byte> rounded;
  for (Parameter* parameter : model.parameters()) {
    for (const Segment& segment : parameter->segments()) {
      const Tensor part = parameter->value().narrow(0, segment.begin, segment.rows);
      LogicalTensor tensor{segment.name, {}};
      for (int i = 0; i < part.rank(); ++i) tensor.shape.push_back(part.size(i));
      const std::int64_t width = part.numel() / segment.rows;
      const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(block_elements) / width);
      for (std::int64_t row = 0; row < segment.rows; row += step) {
        const std::int64_t rows = std::min(step, segment.rows - row);
        block.resize(static_cast<std::size_t>(rows * width));
        source.read(tensor, row, rows, block);
        if (rounded_to != DType::f32) {
          rounded.resize(block.size() * bytes_per_element(rounded_to));
          floats_to(rounded_to, block, rounded);
          floats_from(rounded_to, rounded, block);
        }
        model.device().copy(part.narrow(0, row, rows).raw(), block.data(), block.size() * sizeof(float));
      }
    }
    parameter->changed();
  }
}

void load_parameters(Model& model, const ModelSource& source) {
  load_parameters(model, source, DType::f32);
}

}  // namespace tessera
