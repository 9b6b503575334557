#include "checkpoint/retention.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/model_source.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view prefix = "step-";

// Only the name that checkpoint_path() makes: two spellings of one step would be two checkpoints of it.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t step = 0;
  const auto digits = std::string_view(name).substr(prefix.size());
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || step < 0 || checkpoint_path("", step) != fs::path(name)) return std::nullopt;
  return step;
}

bool has_manifest(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / manifest_name, error);
}

// The path without the suffix if it is a step's folder with it; else empty.
fs::path without(std::string_view suffix, const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.ends_with(suffix)) return {};
  const std::string stem = name.substr(0, name.size() - suffix.size());
  return step_of(stem) ? path.parent_path() / stem : fs::path();
}

struct Folder {
  fs::path path;
  bool linked;
};

std::vector<Folder> folders_of(const fs::path& dir) {
  std::vector<Folder> folders;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    if (it->is_directory(error)) folders.push_back({it->path(), it->is_symlink(error)});
  return folders;
}

bool opens(const fs::path& path, bool verify) {
  try {
    open_checkpoint(path, verify);
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool is_shard(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with("shard-") && name.ends_with(".h5");
}

bool may_be_saved(const fs::path& path) {
  const std::string name = path.filename().string();
  return is_shard(path) || name == manifest_name || name.starts_with(std::string(manifest_name) + ".tmp") ||
         std::any_of(std::begin(release_attachments), std::end(release_attachments),
                     [&](const char* attachment) { return name == attachment; });
}

// Why the folder cannot be what a save or a removal left; empty if it can. Shards come first and go last.
std::string why_foreign(const Folder& folder) {
  if (folder.linked) return "it is a link";
  bool any = false;
  bool shard = false;
  std::error_code error;
  for (fs::directory_iterator it(folder.path, error), end; !error && it != end; it.increment(error)) {
    if (it->symlink_status(error).type() != fs::file_type::regular || !may_be_saved(it->path()))
      return "it holds '" + it->path().filename().string() + "', which no save writes";
    any = true;
    shard = shard || is_shard(it->path());
  }
  if (error) return error.message();
  const bool plain = step_of(folder.path.filename().string()).has_value();
  return any && !shard && plain ? "it holds no shard" : "";
}

// In the order that why_foreign() knows.
void remove_folder(const fs::path& path) {
  std::vector<fs::path> first;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
    if (!is_shard(it->path())) first.push_back(it->path());
  for (const fs::path& entry : first) io::remove_tree(entry);
  io::remove_tree(path);
}

std::vector<CheckpointEntry> list(const fs::path& dir, bool complete) {
  std::vector<CheckpointEntry> entries;
  for (const auto& [path, linked] : folders_of(dir)) {
    const auto step = step_of_folder(path);
    const fs::path place = without(replaced_suffix, path);
    if (step && has_manifest(path) == complete && (place.empty() || !has_manifest(place)))
      entries.push_back({*step, path, linked});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return entries;
}

// Newest first, without links.
std::vector<CheckpointEntry> own_checkpoints(const fs::path& dir) {
  auto entries = list_checkpoints(dir);
  std::erase_if(entries, [](const CheckpointEntry& entry) { return entry.linked; });
  std::reverse(entries.begin(), entries.end());
  return entries;
}

}  // namespace

std::optional<std::int64_t> step_of_folder(const fs::path& path) {
  const fs::path place = without(replaced_suffix, path);
  return step_of((place.empty() ? path : place).filename().string());
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& dir) {
  return list(dir, true);
}

std::vector<CheckpointEntry> list_incomplete(const fs::path& dir) {
  return list(dir, false);
}

void apply_retention(const fs::path& dir, int keep, std::int64_t saved_step) {
  if (keep <= 0) return;
  int good = 0;
  bool saved_is_kept = false;
  std::vector<fs::path> old;
  for (const CheckpointEntry& entry : own_checkpoints(dir)) {
    if (good >= keep) {
      old.push_back(entry.path);
    } else if (opens(entry.path, false)) {
      ++good;
      saved_is_kept = saved_is_kept || entry.step == saved_step;
    }
  }
  if (!saved_is_kept) return;
  for (const fs::path& path : old) delete_checkpoint(path);
}

std::optional<std::int64_t> give_up_oldest(const fs::path& dir) {
  const auto entries = own_checkpoints(dir);
  const auto good = std::find_if(entries.begin(), entries.end(),
                                 [](const CheckpointEntry& entry) { return opens(entry.path, true); });
  if (good == entries.end() || good + 1 == entries.end()) return std::nullopt;
  delete_checkpoint(entries.back().path);
  return entries.back().step;
}

void delete_checkpoint(const fs::path& path) {
  if (fs::is_symlink(path)) {
    io::remove_file(path);
    return;
  }
  io::remove_file(path / manifest_name);
  io::sync_folder(path);
  remove_folder(path);
}

void clear_leftovers(const fs::path& dir, const std::function<void(const std::string&)>& tell) {
  const auto say = [&](const std::string& line) {
    if (tell) tell(line);
  };
  const auto clear = [&](const Folder& folder) {
    const std::string foreign = why_foreign(folder);
    if (foreign.empty()) remove_folder(folder.path);
    say(foreign.empty() ? fmt::format("cleared '{}', which a save or removal that was cut short left",
                                      folder.path.string())
                        : fmt::format("'{}' stays, and is no checkpoint: {}", folder.path.string(), foreign));
    return foreign.empty();
  };
  for (const Folder& folder : folders_of(dir)) {
    const fs::path place = without(replaced_suffix, folder.path);
    if (!without(partial_suffix, folder.path).empty() ||
        (step_of_folder(folder.path) && !has_manifest(folder.path))) {
      clear(folder);
    } else if (!place.empty() && has_manifest(place)) {
      delete_checkpoint(folder.path);
    } else if (!place.empty() && (!fs::exists(place) || clear({place, fs::is_symlink(place)}))) {
      io::rename_file(folder.path, place);
      io::sync_folder(dir);
      say(fmt::format("put back '{}', which a save that was cut short was about to replace", place.string()));
    }
  }
}

}  // namespace tessera
