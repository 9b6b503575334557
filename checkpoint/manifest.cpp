#include "checkpoint/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/hash.h"

namespace tessera {
namespace {

constexpr std::int64_t largest_dim = std::int64_t{1} << 40;

Json json_of(const ShardEntry& shard) {
  Json slabs = Json::array();
  for (const SlabEntry& s : shard.slabs)
    slabs.push_back({{"name", s.name},
                     {"state", s.state},
                     {"dtype", std::string(name(s.dtype))},
                     {"shape", s.shape},
                     {"offset", s.slab.offset},
                     {"extent", s.slab.extent},
                     {"byte", s.offset},
                     {"xxh3", s.hashes}});
  return {{"file", shard.file},
          {"bytes", shard.bytes},
          {"structure_xxh3", shard.structure_hash},
          {"slabs", slabs}};
}

std::vector<std::int64_t> dims(const Json& value, const std::string& origin) {
  std::vector<std::int64_t> result;
  for (const Json& d : value) {
    const auto size = d.get<std::int64_t>();
    if (size < 0 || size > largest_dim) fail("{}: {} is no dimension of a tensor", origin, size);
    result.push_back(size);
  }
  if (result.size() > 8) fail("{}: a tensor of {} dimensions", origin, result.size());
  return result;
}

// Whether the slab's bytes lie in the file, without overflow on the way.
bool fits(const SlabEntry& slab, std::uint64_t file_bytes) {
  double size = static_cast<double>(bytes_per_element(slab.dtype));
  for (const std::int64_t e : slab.slab.extent) size *= static_cast<double>(e);
  if (size > static_cast<double>(file_bytes)) return false;
  return slab.offset <= file_bytes && slab.bytes() <= file_bytes - slab.offset &&
         slab.hashes.size() == (slab.bytes() + chunk_bytes - 1) / chunk_bytes;
}

bool plain_name(const std::string& file) {
  return !file.empty() && file.size() < 200 && file.find('/') == std::string::npos &&
         file.find('\0') == std::string::npos && file[0] != '.';
}

ShardEntry shard_of(const Json& value, const std::string& origin) {
  ShardEntry shard{value.at("file").get<std::string>(),
                   value.at("bytes").get<std::uint64_t>(),
                   value.at("structure_xxh3").get<std::string>(),
                   {}};
  if (!plain_name(shard.file)) fail("{}: '{}' is no name of a shard", origin, shard.file);
  for (const Json& s : value.at("slabs")) {
    SlabEntry slab{s.at("name").get<std::string>(),
                   s.at("state").get<std::string>(),
                   dtype_from_name(s.at("dtype").get<std::string>()),
                   dims(s.at("shape"), origin),
                   {dims(s.at("offset"), origin), dims(s.at("extent"), origin)},
                   s.at("byte").get<std::uint64_t>(),
                   s.at("xxh3").get<std::vector<std::string>>()};
    if (!lies_within(slab.slab, slab.shape) || !fits(slab, shard.bytes))
      fail("{}: the slab of '{}' in '{}' does not fit", origin, slab.name, shard.file);
    shard.slabs.push_back(std::move(slab));
  }
  return shard;
}

// Runs f, turning the JSON library's complaints about missing or ill-typed members into ours.
template <class F>
auto reading(const std::string& origin, F f) {
  try {
    return f();
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not a manifest that this version writes ({})", origin, e.what());
  }
}

constexpr std::string_view head = "{\"xxh3\": \"";
constexpr std::string_view middle = "\", \"checkpoint\": ";
constexpr std::size_t digest = 32;

}  // namespace

std::string shard_text(const ShardEntry& shard) {
  return json_of(shard).dump();
}

ShardEntry parse_shard(const std::string& text, const std::string& origin) {
  return reading(origin, [&] { return shard_of(parse_json(text, origin), origin); });
}

std::string manifest_text(const Manifest& manifest) {
  Json shards = Json::array();
  for (const ShardEntry& shard : manifest.shards) shards.push_back(json_of(shard));
  Json files = Json::object();
  for (const auto& [file, entry] : manifest.files)
    files[file] = {{"bytes", entry.bytes}, {"xxh3", entry.hash}};
  const Json body = {{"version", manifest_version},
                     {"step", manifest.step},
                     {"meta", *manifest.meta},
                     {"files", files},
                     {"shards", shards}};
  const std::string text = body.dump();
  return std::string(head) + xxh3_128_hex(bytes_of(text)) + std::string(middle) + text + "}\n";
}

Manifest parse_manifest(const std::string& text, const std::string& origin) {
  const std::size_t start = head.size() + digest + middle.size();
  if (text.size() < start + 2 || !text.starts_with(head) || !text.ends_with("}\n"))
    fail("{} is truncated or no manifest", origin);
  const std::string body = text.substr(start, text.size() - start - 2);
  if (text.substr(head.size(), digest) != xxh3_128_hex(bytes_of(body)))
    fail("{} is damaged (hash differs)", origin);
  return reading(origin, [&] {
    const Json value = parse_json(body, origin);
    const auto version = value.at("version").get<std::int64_t>();
    if (version != manifest_version)
      fail("{} has version {}; this build reads {}: use the build that wrote it", origin, version,
           manifest_version);
    Manifest manifest;
    manifest.step = value.at("step").get<std::int64_t>();
    if (manifest.step < 0 || !value.at("meta").is_object()) fail("{}: step or meta is invalid", origin);
    manifest.meta = std::make_shared<const Json>(value.at("meta"));
    for (const auto& [file, entry] : value.at("files").items()) {
      if (!plain_name(file)) fail("{}: '{}' is no name of an attached file", origin, file);
      manifest.files[file] = {entry.at("bytes").get<std::uint64_t>(), entry.at("xxh3").get<std::string>()};
    }
    for (const Json& shard : value.at("shards")) manifest.shards.push_back(shard_of(shard, origin));
    check_coverage(manifest.shards, origin);
    return manifest;
  });
}

void check_coverage(const std::vector<ShardEntry>& shards, const std::string& origin) {
  std::map<std::pair<std::string, std::string>, std::vector<const SlabEntry*>> tensors;
  for (const ShardEntry& shard : shards)
    for (const SlabEntry& slab : shard.slabs) tensors[{slab.name, slab.state}].push_back(&slab);
  for (const auto& [key, entries] : tensors) {
    std::vector<Slab> slabs;
    for (const SlabEntry* entry : entries) {
      if (entry->shape != entries[0]->shape || entry->dtype != entries[0]->dtype)
        fail("{}: the slabs of {} of '{}' disagree about its shape", origin, key.second, key.first);
      slabs.push_back(entry->slab);
    }
    if (const std::string defect = tiling_defect(entries[0]->shape, slabs); !defect.empty())
      fail("{}: {} of '{}': {}", origin, key.second, key.first, defect);
  }
}

}  // namespace tessera
