// Which checkpoints stay. Call on one rank only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace tessera {

// Complete checkpoints (those with a manifest) of a directory, oldest first.
struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path path;
};
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& dir);

// Deletes what is older than the `keep` newest checkpoints that open (manifest and sizes hold); `keep` 0
// keeps all. Nothing is deleted unless the checkpoint of `saved_step`, just written, is among those kept. A
// checkpoint loses its manifest first, so that a crash leaves no half one that counts. Throws Error where
// the file system refuses.
void apply_retention(const std::filesystem::path& dir, int keep, std::int64_t saved_step);

// Deletes one checkpoint's directory, manifest first.
void delete_checkpoint(const std::filesystem::path& path);

// Removes what saves that were cut short left in `dir`, and completes a replacement that was cut short.
void clear_leftovers(const std::filesystem::path& dir);

}  // namespace tessera
