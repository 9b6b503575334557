#include "checkpoint/shard.h"

#include <hdf5.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"

namespace tessera {
namespace {

// Closes an HDF5 identifier; a call that failed is an Error.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::filesystem::path& path) : id_(id), close_(close) {
    if (id < 0) fail("HDF5 cannot write '{}' (is the disk full?)", path.string());
  }
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }  // NOLINT: used as HDF5's own identifier

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

hid_t hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::bf16:
    case DType::f16:
      return H5T_STD_U16LE;  // raw bits; the manifest names the dtype
    default:
      fail("checkpoints hold no tensors of dtype {}", name(dtype));
  }
}

// Makes the file with room for each slice and returns where each lies.
std::vector<std::uint64_t> create_structure(const std::filesystem::path& path,
                                            const std::vector<const StateSlice*>& slices) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  std::vector<std::uint64_t> offsets;
  const Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose, path);
  for (const StateSlice* slice : slices) {
    const std::vector<hsize_t> dims(slice->slab.extent.begin(), slice->slab.extent.end());
    const Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose, path);
    const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    const std::string dataset = slice->name + " " + slice->state + " at " + text(slice->slab.offset);
    const Handle made(H5Dcreate2(file, dataset.c_str(), hdf5_type(slice->dtype), space, H5P_DEFAULT,
                                 properties, H5P_DEFAULT),
                      H5Dclose, path);
    offsets.push_back(H5Dget_offset(made));
  }
  if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) fail("HDF5 cannot write '{}' (is the disk full?)", path.string());
  return offsets;
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
  std::string structure;
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
