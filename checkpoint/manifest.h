// The manifest: what a checkpoint holds and the hashes that prove it. Internal to checkpoint/. Plain values.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/shard.h"

namespace tessera {

inline constexpr std::int64_t manifest_version = 1;
inline constexpr const char* manifest_name = "manifest.json";

struct AttachedFile {
  std::uint64_t bytes = 0;
  std::string hash;  // XXH3-128
};

struct Manifest {
  std::int64_t step = 0;
  std::shared_ptr<const Json> meta;  // an object, never null
  std::map<std::string, AttachedFile> files;
  std::vector<ShardEntry> shards;
};

// One shard's part of the manifest, as text that parse_shard reads back.
std::string shard_text(const ShardEntry& shard);
ShardEntry parse_shard(const std::string& text, const std::string& origin);

// The file's content: its body preceded by the body's XXH3.
std::string manifest_text(const Manifest& manifest);
// Refuses a wrong hash, a newer version, and anything that does not hold together; messages begin with
// `origin`.
Manifest parse_manifest(const std::string& text, const std::string& origin);

// Throws Error unless the slabs of each tensor's state tile it.
void check_coverage(const std::vector<ShardEntry>& shards, const std::string& origin);

}  // namespace tessera
