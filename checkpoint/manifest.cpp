#include "checkpoint/manifest.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/hash.h"

namespace tessera {
namespace {

constexpr std::uint64_t largest_number = std::uint64_t{1} << 53;  // of bytes, elements, steps

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

// Typed reading: the library would turn -1, 1.5 and 5 for [5] into something.
std::uint64_t number(const Json& value, const std::string& origin) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > largest_number)
    fail("{}: {} is not a whole number from 0 to 2^53", origin,
         value.is_number() ? value.dump() : value.type_name());
  return value.get<std::uint64_t>();
}

const Json& array(const Json& value, const std::string& origin) {
  if (!value.is_array()) fail("{}: a list is expected instead of {}", origin, value.type_name());
  return value;
}

const Json& object(const Json& value, const std::string& origin) {
  if (!value.is_object()) fail("{}: an object is expected instead of {}", origin, value.type_name());
  return value;
}

std::string hash(const Json& value, const std::string& origin) {
  auto text = value.get<std::string>();
  if (text.size() != 32 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    fail("{}: '{}' is no XXH3 of 128 bits", origin, text);
  return text;
}

// Exactly these members: one more is from a version that knows more than this one.
void expect_members(const Json& value, std::initializer_list<const char*> names, const std::string& origin) {
  for (const char* name : names)
    if (!object(value, origin).contains(name)) fail("{}: '{}' is missing", origin, name);
  for (const auto& [key, member] : value.items())
    if (std::find(names.begin(), names.end(), key) == names.end())
      fail("{}: '{}' is not known to this version", origin, key);
}

std::vector<std::int64_t> dims(const Json& value, const std::string& origin) {
  std::vector<std::int64_t> result;
  std::uint64_t product = 1;
  if (array(value, origin).size() > 8) fail("{}: a tensor of {} dimensions", origin, value.size());
  for (const Json& d : value) {
    const std::uint64_t size = number(d, origin);
    if (size > largest_number / product) fail("{}: {} is too large for a tensor", origin, value.dump());
    product *= std::max<std::uint64_t>(size, 1);
    result.push_back(static_cast<std::int64_t>(size));
  }
  return result;
}

DType dtype_of(const Json& value, const std::string& origin) {
  const auto name = value.get<std::string>();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64})
    if (name == tessera::name(dtype)) return dtype;
  fail("{}: checkpoints hold no tensors of dtype '{}'", origin, name);
}

// Whether the slab's bytes lie in the file. Numbers are at most 2^53, elements 8 bytes: nothing overflows.
bool fits(const SlabEntry& slab, std::uint64_t file_bytes) {
  return slab.bytes() > 0 && slab.offset <= file_bytes && slab.bytes() <= file_bytes - slab.offset &&
         slab.hashes.size() == (slab.bytes() + chunk_bytes - 1) / chunk_bytes;
}

// A name within the folder that neither hides nor leaves it.
bool plain_name(const std::string& file) {
  return !file.empty() && file.size() < 200 && file[0] != '.' && file != manifest_name &&
         file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

SlabEntry slab_of(const Json& value, const std::string& origin) {
  expect_members(value, {"name", "state", "dtype", "shape", "offset", "extent", "byte", "xxh3"}, origin);
  SlabEntry slab{value.at("name").get<std::string>(),
                 value.at("state").get<std::string>(),
                 dtype_of(value.at("dtype"), origin),
                 dims(value.at("shape"), origin),
                 {dims(value.at("offset"), origin), dims(value.at("extent"), origin)},
                 number(value.at("byte"), origin),
                 {}};
  for (const Json& chunk : array(value.at("xxh3"), origin)) slab.hashes.push_back(hash(chunk, origin));
  return slab;
}

ShardEntry shard_of(const Json& value, const std::string& origin) {
  expect_members(value, {"file", "bytes", "structure_xxh3", "slabs"}, origin);
  ShardEntry shard{value.at("file").get<std::string>(),
                   number(value.at("bytes"), origin),
                   hash(value.at("structure_xxh3"), origin),
                   {}};
  if (!plain_name(shard.file)) fail("{}: '{}' is no name of a shard", origin, shard.file);
  for (const Json& entry : array(value.at("slabs"), origin)) {
    SlabEntry slab = slab_of(entry, origin);
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
  if (text.size() < start + 2 || !text.starts_with(head) || !text.ends_with("}\n") ||
      text.compare(head.size() + digest, middle.size(), middle) != 0)
    fail("{} is truncated or no manifest", origin);
  const std::string body = text.substr(start, text.size() - start - 2);
  if (text.substr(head.size(), digest) != xxh3_128_hex(bytes_of(body)))
    fail("{} is damaged (hash differs)", origin);
  return reading(origin, [&] {
    const Json value = parse_json(body, origin);
    const Json version = value.is_object() && value.contains("version") ? value.at("version") : Json();
    if (version != manifest_version)
      fail("{} has version {}; this build reads {}: use the build that wrote it", origin,
           version.is_number() ? version.dump() : version.type_name(), manifest_version);
    expect_members(value, {"version", "step", "meta", "files", "shards"}, origin);
    Manifest manifest;
    manifest.step = static_cast<std::int64_t>(number(value.at("step"), origin));
    manifest.meta = std::make_shared<const Json>(object(value.at("meta"), origin));
    std::set<std::string> names;
    for (const auto& [file, entry] : object(value.at("files"), origin).items()) {
      if (!plain_name(file)) fail("{}: '{}' is no name of an attached file", origin, file);
      expect_members(entry, {"bytes", "xxh3"}, origin);
      manifest.files[file] = {number(entry.at("bytes"), origin), hash(entry.at("xxh3"), origin)};
      names.insert(file);
    }
    for (const Json& shard : array(value.at("shards"), origin)) {
      manifest.shards.push_back(shard_of(shard, origin));
      if (const std::string& file = manifest.shards.back().file; !names.insert(file).second)
        fail("{}: '{}' is listed twice", origin, file);
    }
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
