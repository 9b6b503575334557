// Which checkpoints stay. Call on one rank only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Suffixes of a step's folder: a save under way, and the checkpoint that a save of the same step is about to
// replace, which counts while nothing stands in its place.
inline constexpr std::string_view partial_suffix = ".partial";
inline constexpr std::string_view replaced_suffix = ".replaced";

// The step that a folder's name gives, "step-00000100" or the same with replaced_suffix; else nullopt.
std::optional<std::int64_t> step_of_folder(const std::filesystem::path& path);

struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path path;
  bool linked = false;  // lies elsewhere: may be read, is never removed
};
// Complete checkpoints (those with a manifest) of a directory, oldest first.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& dir);
// Folders with a checkpoint's name but without a manifest, oldest first: what a save or a removal that was
// cut short left, or none of ours.
std::vector<CheckpointEntry> list_incomplete(const std::filesystem::path& dir);

// Deletes what is older than the `keep` newest checkpoints that open (manifest and sizes hold); `keep` 0
// keeps all. Nothing is deleted unless the checkpoint of `saved_step`, just written, is among those kept. A
// checkpoint loses its manifest first, so that a crash leaves no half one that counts. Links neither count
// nor go. Throws Error where the file system refuses.
void apply_retention(const std::filesystem::path& dir, int keep, std::int64_t saved_step);

// For a save that found no room: deletes the oldest checkpoint, of those older than the newest one of which
// every byte is good, and returns its step; nullopt where there is none to spare. Throws as apply_retention.
std::optional<std::int64_t> give_up_oldest(const std::filesystem::path& dir);

// Deletes one checkpoint's directory, manifest first; of a link, the link alone.
void delete_checkpoint(const std::filesystem::path& path);

// Removes what saves and deletions that were cut short left in `dir`, and undoes a replacement that was cut
// short. A folder that holds anything else than a save writes stays. `tell`, if not empty, gets a line for
// each folder that went or stayed.
void clear_leftovers(const std::filesystem::path& dir,
                     const std::function<void(const std::string&)>& tell = {});

}  // namespace tessera
