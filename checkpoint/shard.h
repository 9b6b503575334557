// Shards: the HDF5 files of a checkpoint, one contiguous dataset a slab. Internal to checkpoint/.
//
// HDF5 makes the structure; the payload is written, and everything is read, through io::File at the offsets
// that the manifest keeps, so that faults, hashes and fsync are in one place. Rank's thread only.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/store.h"

namespace tessera {

inline constexpr std::uint64_t chunk_bytes = std::uint64_t{16} << 20;

// One slab as the manifest lists it.
struct SlabEntry {
  std::string name, state;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  Slab slab;
  std::uint64_t offset = 0;         // of its first byte in the file
  std::vector<std::string> hashes;  // XXH3-128 of each 16 MiB
  std::uint64_t bytes() const;
};

struct ShardEntry {
  std::string file;
  std::uint64_t bytes = 0;
  std::string structure_hash;  // see below
  std::vector<SlabEntry> slabs;
};

// Writes and fsyncs one shard. Throws Error.
ShardEntry write_shard(const std::filesystem::path& folder, const std::string& file,
                       const std::vector<StateSlice>& slices);

// XXH3 of what the manifest says of the slabs (name, dtype, shape, place) and of the bytes of `path` outside
// them: it binds this manifest to this file.
std::string structure_hash(const std::filesystem::path& path, const ShardEntry& shard);

}  // namespace tessera
