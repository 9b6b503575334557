#include "checkpoint/import.h"

#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/progress.h"

namespace tessera {

namespace fs = std::filesystem;

fs::path import_release(const fs::path& dir, const fs::path& to) {
  const bool existed = fs::exists(to);
  if (existed && (!fs::is_directory(to) || !fs::is_empty(to)))
    fail("'{}' already holds something; choose a new directory", to.string());
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
  try {
    return save_checkpoint(to, 0, slices, meta, source.description().files);
  } catch (...) {
    std::error_code ignored;
    if (!existed) fs::remove_all(to, ignored);
    throw;
  }
}

}  // namespace tessera
