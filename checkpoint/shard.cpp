#include "checkpoint/shard.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/hdf5_file.h"
#include "core/base/io.h"

namespace tessera {
namespace {

// Makes the file with room for each slice and returns where each lies.
std::vector<std::uint64_t> create_structure(const std::filesystem::path& path,
                                            const std::vector<const StateSlice*>& slices) {
  std::vector<Hdf5Dataset> datasets;
  for (const StateSlice* slice : slices)
    datasets.push_back({slice->name + " " + slice->state + " at " + text(slice->slab.offset),
                        slice->dtype,
                        {slice->slab.extent.begin(), slice->slab.extent.end()}});
  return create_hdf5_file(path, datasets);
}

// What the manifest says of the slabs, but their hashes.
std::string slabs_text(const ShardEntry& shard) {
  std::string result;
  for (const SlabEntry& s : shard.slabs)
    result += fmt::format("{}\n{}\n{} {} {} {} {}\n", s.name, s.state, name(s.dtype), text(s.shape),
                          text(s.slab.offset), text(s.slab.extent), s.offset);
  return result;
}

}  // namespace

std::uint64_t SlabEntry::bytes() const {
  return static_cast<std::uint64_t>(elements(slab.extent)) * bytes_per_element(dtype);
}

ShardEntry write_shard(const std::filesystem::path& folder, const std::string& file,
                       const std::vector<StateSlice>& slices) {
  std::vector<const StateSlice*> filled;
  for (const StateSlice& slice : slices)
    if (elements(slice.slab.extent) > 0) filled.push_back(&slice);
  const std::filesystem::path path = folder / file;
  const std::vector<std::uint64_t> offsets = create_structure(path, filled);
  ShardEntry shard{file, 0, "", {}};
  io::File out = io::File::open_update(path);
  for (std::size_t i = 0; i < filled.size(); ++i) {
    const StateSlice& slice = *filled[i];
    SlabEntry entry{slice.name, slice.state, slice.dtype, slice.shape, slice.slab, offsets[i], {}};
    const auto* data = static_cast<const std::byte*>(slice.data);
    for (std::uint64_t at = 0; at < entry.bytes(); at += chunk_bytes) {
      const std::span chunk(data + at, std::min(chunk_bytes, entry.bytes() - at));
      entry.hashes.push_back(xxh3_128_hex(chunk));
      out.write_at(entry.offset + at, chunk);
    }
    shard.slabs.push_back(std::move(entry));
  }
  out.sync();
  shard.bytes = out.size();
  out.close();
  shard.structure_hash = structure_hash(path, shard);
  return shard;
}

std::string structure_hash(const std::filesystem::path& path, const ShardEntry& shard) {
  const io::File file = io::File::open_read(path);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> payload;
  for (const SlabEntry& entry : shard.slabs) payload.emplace_back(entry.offset, entry.offset + entry.bytes());
  std::sort(payload.begin(), payload.end());
  payload.emplace_back(shard.bytes, shard.bytes);
  std::string structure = slabs_text(shard);
  std::uint64_t at = 0;
  for (const auto& [begin, end] : payload) {
    if (begin > at) {
      const std::size_t old = structure.size();
      structure.resize(old + begin - at);
      file.read_at(at, std::as_writable_bytes(std::span(structure)).subspan(old));
    }
    at = std::max(at, end);
  }
  return xxh3_128_hex(bytes_of(structure));
}

}  // namespace tessera
