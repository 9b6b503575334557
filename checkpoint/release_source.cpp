#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/model_source.h"
#include "checkpoint/release_path.h"
#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/lfs.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t block_elements = std::size_t{1} << 22;
constexpr std::uint64_t largest_attachment = std::uint64_t{256} << 20;

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
  visit_logical_tensors(config.spec, [&](const LogicalTensor& tensor) {
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
  });
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

}  // namespace

ModelSource open_release(const fs::path& dir) {
  if (!fs::is_directory(dir)) fail("'{}' is not a directory", dir.string());
  const auto config = release_file(dir, "config.json");
  if (!config) fail("'{}' is no Hugging Face directory: it has no config.json", dir.string());
  ModelDescription description{
      read_release_config(read_json(*config, std::uint64_t{16} << 20), config->string()), DType::f32, {}};
  SafetensorsRelease release = SafetensorsRelease::open(dir);
  description.dtype = check_release(release, description.release);
  for (const char* name : release_attachments)
    if (const auto file = release_file(dir, name)) {
      std::string& text = description.files[name] = io::read_text(*file, largest_attachment);
      refuse_lfs_pointer(text, file->string());
    }
  const Family& family = *description.release.family;
  return {std::move(description), dir.string(), std::make_shared<ReleaseReader>(std::move(release), family)};
}

}  // namespace tessera
