#include "checkpoint/retention.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view prefix = "step-";
constexpr std::string_view partial_suffix = ".partial";

std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* begin = name.data() + prefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
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

std::vector<CheckpointEntry> list_checkpoints(const fs::path& dir) {
  std::vector<CheckpointEntry> entries;
  for (const fs::path& path : folders_of(dir))
    if (const auto step = step_of(path.filename().string()); step && fs::exists(path / manifest_name))
      entries.push_back({*step, path});
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
    const std::string name = path.filename().string();
    if (name.ends_with(partial_suffix)) {
      const fs::path target = dir / name.substr(0, name.size() - partial_suffix.size());
      if (!step_of(target.filename().string())) continue;
      const bool completes =
          fs::exists(path / manifest_name) && !fs::exists(target / manifest_name) && opens(path);
      if (!completes) {
        io::remove_tree(path);
        continue;
      }
      io::remove_tree(target);
      io::rename_file(path, target);
      io::sync_folder(dir);
    } else if (step_of(name) && !fs::exists(path / manifest_name)) {
      io::remove_tree(path);  // a deletion that was cut short
    }
  }
}

}  // namespace tessera
