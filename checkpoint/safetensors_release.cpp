#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/release_path.h"
#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/json.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr const char* index_file = "model.safetensors.index.json";

// A shard's name comes from a file that anybody may have written.
fs::path shard_path(const fs::path& dir, const std::string& shard, const std::string& origin) {
  const bool plain = !shard.empty() && shard.size() <= 255 && shard != "." && shard != ".." &&
                     std::none_of(shard.begin(), shard.end(), [](char c) {
                       return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
                     });
  if (!plain || !shard.ends_with(".safetensors"))
    fail("{}: shard '{}' is not the name of a .safetensors file in the same directory", origin,
         shard.substr(0, 120).c_str());
  const auto path = release_file(dir, shard);
  if (!path) fail("{}: shard '{}' is missing", origin, shard);
  return *path;
}

}  // namespace

SafetensorsRelease SafetensorsRelease::open(const fs::path& dir) {
  SafetensorsRelease release;
  release.dir_ = dir;
  const auto index = release_file(dir, index_file);
  if (!index) {
    const auto single = release_file(dir, "model.safetensors");
    if (!single) fail("{}: neither model.safetensors nor {} is there", dir.string(), index_file);
    const SafetensorsFile file = SafetensorsFile::open(*single);
    for (const SafetensorsTensor& tensor : file.tensors())
      release.tensors_.emplace(tensor.name, Located{file, &tensor});
    return release;
  }
  const std::string origin = index->string();
  const Json json = read_json(*index, std::uint64_t{256} << 20);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object() || map->empty())
    fail("{}: 'weight_map' is missing, empty or not an object", origin);
  std::map<std::string, SafetensorsFile> files;
  for (const auto& [tensor_name, shard] : map->items()) {
    if (!shard.is_string()) fail("{}: the shard of '{}' is not text", origin, tensor_name);
    const std::string& file_name = shard.get_ref<const std::string&>();
    auto found = files.find(file_name);
    if (found == files.end())
      found = files.emplace(file_name, SafetensorsFile::open(shard_path(dir, file_name, origin))).first;
    const SafetensorsTensor* const tensor = found->second.find(tensor_name);
    if (tensor == nullptr) fail("{}: tensor '{}' is not in its shard '{}'", origin, tensor_name, file_name);
    release.tensors_.emplace(tensor_name, Located{found->second, tensor});
  }
  std::uint64_t total = 0;
  for (const auto& [file_name, file] : files)
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const auto listed = release.tensors_.find(tensor.name);
      if (listed == release.tensors_.end())
        fail("{}: shard '{}' holds tensor '{}', which the index does not list", origin, file_name,
             tensor.name);
      if (listed->second.tensor != &tensor)
        fail("{}: tensor '{}' is in two shards, '{}' and '{}'", origin, tensor.name, file_name,
             listed->second.file.path().filename().string());
      total += tensor.end - tensor.begin;
    }
  if (const auto metadata = json.find("metadata"); metadata != json.end() && metadata->is_object())
    if (const auto size = metadata->find("total_size"); size != metadata->end()) {
      if (!size->is_number() || size->get<double>() < 0) fail("{}: 'total_size' is not a size", origin);
      if (size->get<double>() != static_cast<double>(total))
        fail("{}: 'total_size' is {}, but the shards hold {} bytes", origin, size->dump(), total);
    }
  return release;
}

std::vector<std::string> SafetensorsRelease::names() const {
  std::vector<std::string> result;
  for (const auto& [name, located] : tensors_) result.push_back(name);
  return result;
}

const SafetensorsRelease::Located* SafetensorsRelease::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<SafetensorsShard> plan_shards(std::vector<SafetensorsTensor> tensors,
                                          std::uint64_t max_shard_bytes) {
  std::vector<SafetensorsShard> shards;
  std::uint64_t used = 0;
  for (SafetensorsTensor& tensor : tensors) {
    const std::uint64_t size = static_cast<std::uint64_t>(tensor.numel()) * bits(tensor.dtype) / 8;
    if (shards.empty() || (used > 0 && used + size > max_shard_bytes)) {
      shards.emplace_back();
      used = 0;
    }
    used += size;
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (std::size_t i = 0; i < shards.size(); ++i)
    shards[i].file = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  return shards;
}

std::string index_text(const std::vector<SafetensorsShard>& shards) {
  std::map<std::string, std::string> map;
  std::uint64_t total = 0;
  for (const SafetensorsShard& shard : shards)
    for (const SafetensorsTensor& tensor : shard.tensors) {
      map[tensor.name] = shard.file;
      total += static_cast<std::uint64_t>(tensor.numel()) * bits(tensor.dtype) / 8;
    }
  Json weight_map = Json::object();
  for (auto& [name, file] : map) weight_map.get_ref<Json::object_t&>().emplace_back(name, file);
  Json index = Json::object();
  index["metadata"] = {{"total_size", total}};
  index["weight_map"] = std::move(weight_map);
  return index.dump(2) + "\n";
}

}  // namespace tessera
