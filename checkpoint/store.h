// Checkpoints: named slices of global tensors in a directory that is either complete or does not count.
//
// DIR/step-00000100/ holds one HDF5 file per rank that had something to save (shard-00000-of-00002.h5), the
// attached text files (tokenizer.json, …) and manifest.json, which is renamed into place last, after
// everything it lists is on disk. The manifest names each tensor's slabs with file, byte offset and an XXH3
// of every 16 MiB, carries a hash of its own, and so a reader takes any slab of any tensor with `pread`,
// checks exactly the bytes it used, and never runs HDF5's parser. Which ranks wrote which slabs does not
// matter to a reader.
//
// Nothing here keeps state between calls. Functions that take a Coordination are collective.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/coordination.h"
#include "checkpoint/slab.h"
#include "core/base/dtype.h"
#include "core/base/json.h"

namespace tessera {

using Log = std::function<void(const std::string&)>;

// A part of one state ("weight", "adam_m", "adam_v") of one logical tensor, to be saved. `data` points to
// the slab's elements, contiguous and row-major; the caller keeps it alive and unchanged during the save.
struct StateSlice {
  std::string name;
  std::string state;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;  // of the whole tensor
  Slab slab;
  const void* data = nullptr;
};

// A checkpoint's directory, DIR/step-00000100.
std::filesystem::path checkpoint_path(const std::filesystem::path& dir, std::int64_t step);

// Saves the slices of all ranks as DIR/step-N and returns its path. Together they must cover every tensor
// they name, each element once; a slice without elements is skipped. `meta` (an object) and `files` (name to
// content) are rank 0's; elsewhere they are ignored. An existing checkpoint of that step stays until the new
// one is complete. Left-overs of saves that were cut short are cleared first.
// On any failure all ranks throw Error (io::DiskFull) with the cause, and the partial directory is gone.
std::filesystem::path save_checkpoint(const std::filesystem::path& dir, std::int64_t step,
                                      const std::vector<StateSlice>& slices, const Json& meta,
                                      const std::map<std::string, std::string>& files,
                                      Coordination& ranks = alone());

struct TensorInfo {
  std::string name;
  std::string state;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

// An open checkpoint; a cheap handle. `read` may be called from several threads.
class LoadedCheckpoint {
 public:
  const std::filesystem::path& path() const;
  std::int64_t step() const;
  const Json& meta() const;
  const std::map<std::string, std::string>& files() const;  // attached files, name to content
  const std::vector<TensorInfo>& tensors() const;
  const TensorInfo* find(const std::string& name, const std::string& state) const;  // nullptr if absent
  std::uint64_t payload_bytes() const;                                              // of all tensors
  int shards() const;

  // Fills `out` with the slab's elements, contiguous, row-major, in the tensor's dtype. Checks the hash of
  // every chunk it touches; a wrong one throws Error naming file, tensor and byte offset.
  void read(const std::string& name, const std::string& state, const Slab& slab, void* out) const;
  void read_whole(const std::string& name, const std::string& state, void* out) const;

  // Checks every byte of every shard that belongs to part `part` of `parts`; throws Error at the first bad
  // one. `progress` is told the bytes done since its last call.
  void verify(int part = 0, int parts = 1, const std::function<void(std::uint64_t)>& progress = {}) const;

 private:
  friend LoadedCheckpoint open_checkpoint(const std::filesystem::path& path, bool verify);
  struct State;
  std::shared_ptr<const State> state_;
};

// Whether `path` is a checkpoint: a directory with a manifest, or one that holds such step-* directories.
bool is_checkpoint(const std::filesystem::path& path);

// Opens the checkpoint at `path`; of a directory of them the newest good one, warning of newer ones in the
// log. Checks manifest, attached files, presence and size of shards; with `verify`, all bytes. Throws.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& path, bool verify = false);

// The newest good checkpoint in `dir`, or nullopt where there is none (no directory, an empty one, or only
// bad ones). `warn` gets one line for each newer one that is passed over, bad or without a manifest, on rank
// 0. With `verify`, the ranks share the work of checking all bytes, and all ranks return the same checkpoint.
std::optional<LoadedCheckpoint> open_newest(const std::filesystem::path& dir, const Log& warn,
                                            bool verify = true, Coordination& ranks = alone());

}  // namespace tessera
