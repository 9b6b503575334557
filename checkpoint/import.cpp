#include "checkpoint/import.h"

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

}  // namespace

fs::path import_release(const fs::path& dir, const fs::path& to, bool force) {
  Destination destination(to, force);
  const ModelSource source = open_release(dir);
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
