#include "checkpoint/retention.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "checkpoint/manifest.h"
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

std::vector<fs::path> folders_of(const fs::path& dir) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    if (it->is_directory(error)) folders.push_back(it->path());
  return folders;
}

bool opens(const fs::path& path) {
  try {
    open_checkpoint(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::optional<std::int64_t> step_of_folder(const fs::path& path) {
  const fs::path place = without(replaced_suffix, path);
  return step_of((place.empty() ? path : place).filename().string());
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& dir) {
  std::vector<CheckpointEntry> entries;
  for (const fs::path& path : folders_of(dir)) {
    const auto step = step_of_folder(path);
    const fs::path place = without(replaced_suffix, path);
    if (step && has_manifest(path) && (place.empty() || !has_manifest(place)))
      entries.push_back({*step, path});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return entries;
}

void apply_retention(const fs::path& dir, int keep, std::int64_t saved_step) {
  if (keep <= 0) return;
  auto entries = list_checkpoints(dir);
  std::reverse(entries.begin(), entries.end());
  int good = 0;
  bool saved_is_kept = false;
  std::vector<fs::path> old;
  for (const CheckpointEntry& entry : entries) {
    if (good >= keep) {
      old.push_back(entry.path);
    } else if (opens(entry.path)) {
      ++good;
      saved_is_kept = saved_is_kept || entry.step == saved_step;
    }
  }
  if (!saved_is_kept) return;
  for (const fs::path& path : old) delete_checkpoint(path);
}

void delete_checkpoint(const fs::path& path) {
  io::remove_file(path / manifest_name);
  io::sync_folder(path);
  io::remove_tree(path);
}

void clear_leftovers(const fs::path& dir) {
  for (const fs::path& path : folders_of(dir)) {
    const fs::path place = without(replaced_suffix, path);
    if (!without(partial_suffix, path).empty() || (step_of_folder(path) && !has_manifest(path))) {
      io::remove_tree(path);  // a save or a deletion that was cut short
    } else if (!place.empty() && has_manifest(place)) {
      delete_checkpoint(path);
    } else if (!place.empty()) {
      io::remove_tree(place);
      io::rename_file(path, place);
      io::sync_folder(dir);
    }
  }
}

}  // namespace tessera
