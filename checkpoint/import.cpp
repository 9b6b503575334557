#include "checkpoint/import.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/retention.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/new_file.h"
#include "core/base/progress.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

// Whether all that a directory holds is an import: one checkpoint of step 0, of which no run has saved.
bool is_import(const fs::path& dir) {
  const fs::path only = checkpoint_path(dir, 0);
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path() != only || entry.is_symlink()) return false;
  try {
    return !open_checkpoint(only).meta().contains("config");
  } catch (const Error&) {
    return false;
  }
}

// The directory of the checkpoint, there from the start, so that one that cannot be is told at once. Gone
// with the scope if it was made here and nothing is kept.
class Destination {
 public:
  Destination(const fs::path& to, bool force) : to_(to) {
    const bool existed = fs::exists(to);
    if (existed && !fs::is_directory(to))
      fail_usage("'{}' is no directory, and a checkpoint goes into one; choose a new one", to.string());
    if (existed && !fs::is_empty(to) && !is_import(to)) {
      if (!list_checkpoints(to).empty())
        fail_usage("'{}' already holds checkpoints of something else; choose a new directory", to.string());
      if (!force)
        fail_usage(
            "'{}' already holds something; choose a new directory, or put the checkpoint beside it with "
            "--force",
            to.string());
    }
    std::error_code error;
    fs::create_directories(to, error);
    if (error) fail("cannot create '{}': {}", to.string(), error.message());
    made_ = !existed;
    io::NewFile probe(io::unused_path(to / "import", "tmp"));  // is never finished
  }
  ~Destination() {
    std::error_code ignored;
    if (made_) fs::remove_all(to_, ignored);
  }
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;
  void keep() { made_ = false; }

 private:
  fs::path to_;
  bool made_ = false;
};

// What a release holds besides weights is carried along unread, so damage would only show
// when a later release is used.
void check_attachments(const ModelSource& source) {
  for (const auto& [name, text] : source.description().files)
    if (name.ends_with(".json")) parse_json(text, (fs::path(source.origin()) / name).string());
}

std::string index_text(std::size_t flat, const std::vector<std::int64_t>& shape) {
  std::string text;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const auto dim = static_cast<std::size_t>(shape[axis]);
    text = std::to_string(flat % dim) + (text.empty() ? "" : ", ") + text;
    flat /= dim;
  }
  return "[" + text + "]";
}

void check_finite(const LogicalTensor& tensor, std::span<const float> values, const ModelSource& source) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad == values.end()) return;
  const Family& family = *source.description().release.family;
  fail("{}: tensor '{}' is {} at {}; import --allow-nonfinite takes such weights", source.origin(),
       release_name(family, tensor.name).value_or(tensor.name), *bad,
       index_text(static_cast<std::size_t>(bad - values.begin()), tensor.shape));
}

}  // namespace

fs::path import_release(const ModelSource& source, const fs::path& to, const ImportOptions& options) {
  Destination destination(to, options.force);
  check_attachments(source);
  const std::vector<LogicalTensor> tensors = logical_tensors(source.spec());
  std::vector<std::vector<float>> values(tensors.size());
  std::vector<StateSlice> slices;
  {
    Progress progress("reading", 4.0 * static_cast<double>(parameter_count(source.spec())), "MB", 1e6);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const LogicalTensor& tensor = tensors[i];
      std::int64_t count = 1;
      for (const std::int64_t dim : tensor.shape) count *= dim;
      values[i].resize(static_cast<std::size_t>(count));
      source.read(tensor, 0, tensor.shape[0], values[i]);
      if (!options.allow_nonfinite) check_finite(tensor, values[i], source);
      slices.push_back(
          {tensor.name, "weight", DType::f32, tensor.shape, whole(tensor.shape), values[i].data()});
      progress.advance(4.0 * static_cast<double>(count));
    }
  }
  Json meta = Json::object();
  meta["model"] = model_meta(source.description());
  fs::path saved = save_checkpoint(to, 0, slices, meta, source.description().files);
  destination.keep();
  return saved;
}

}  // namespace tessera
