#include "launch/host_memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

#include "core/base/error.h"
#include "core/base/progress.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

std::vector<std::string> lines_of(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool lists(const std::string& comma_separated, const std::string& word) {
  const std::vector<std::string> parts = split(comma_separated, ',');
  return std::find(parts.begin(), parts.end(), word) != parts.end();
}

// The number after `key` on its line; nothing where there is none ("max").
std::optional<std::size_t> number_of(const fs::path& path, const std::string& key = "") {
  for (const std::string& line : lines_of(path)) {
    std::istringstream words(line);
    std::string word;
    if (!key.empty() && (!(words >> word) || word != key)) continue;
    std::size_t value = 0;
    if (words >> value) return value;
  }
  return std::nullopt;
}

// One version of control groups: names of its files.
struct Version {
  const char *limit, *usage, *inactive, *active;
};
constexpr Version v1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                     "total_active_file"};
constexpr Version v2{"memory.max", "memory.current", "inactive_file", "active_file"};

void take_group(const fs::path& folder, const Version& version, const std::string& name, MemoryRoom& room) {
  const auto limit = number_of(folder / version.limit);
  if (!limit) return;
  // Pages of files are given back before a group is out of memory.
  const std::size_t files = number_of(folder / "memory.stat", version.inactive).value_or(0) +
                            number_of(folder / "memory.stat", version.active).value_or(0);
  const std::size_t usage = number_of(folder / version.usage).value_or(0);
  const std::size_t used = usage - std::min(usage, files);
  const std::size_t left = *limit - std::min(*limit, used);
  if (left < room.bytes) room = {left, fmt::format("{} of {}", version.limit, name)};
}

// A hierarchy as it is mounted: the group shown at `point` is `root`.
struct Mount {
  std::string root, point;
};

// proc(5), mountinfo: fields 4 and 5, then after a lone "-" type, source and options.
std::optional<Mount> find_mount(const fs::path& root, bool second) {
  for (const std::string& line : lines_of(root / "proc/self/mountinfo")) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> before = split(line.substr(0, dash), ' ');
    const std::vector<std::string> after = split(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    if (second ? after[0] == "cgroup2" : after[0] == "cgroup" && lists(after[2], "memory"))
      return Mount{before[3], before[4]};
  }
  return std::nullopt;
}

// The groups from this process's own up to the one that the mount shows.
void take_groups(const fs::path& root, std::string path, const Version& version, MemoryRoom& room) {
  const auto mount = find_mount(root, &version == &v2);
  if (!mount) return;
  if (mount->root != "/") path = path.starts_with(mount->root) ? path.substr(mount->root.size()) : "";
  if (path.find("..") != std::string::npos) path.clear();  // outside of this process's view
  const fs::path top = root / fs::path(mount->point).relative_path();
  while (true) {
    take_group(top / fs::path(path).relative_path(), version, path.empty() ? "/" : path, room);
    const std::size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return;
    path.resize(slash);
  }
}

std::size_t status_bytes(const char* key) {
  return number_of("/proc/self/status", key).value_or(0) * 1024;
}

void take_limit(int resource, const char* name, std::size_t used, MemoryRoom& room) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const std::size_t left = limit.rlim_cur - std::min<std::size_t>(limit.rlim_cur, used);
  if (left < room.bytes) room = {left, name};
}

}  // namespace

MemoryRoom node_memory(const fs::path& root) {
  MemoryRoom room{unlimited, "no limit"};
  if (const auto available = number_of(root / "proc/meminfo", "MemAvailable:"))
    room = {*available * 1024, "free memory"};
  for (const std::string& line : lines_of(root / "proc/self/cgroup")) {  // "4:memory:/a/b"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty())
      take_groups(root, path, v2, room);
    else if (lists(controllers, "memory"))
      take_groups(root, path, v1, room);
  }
  return room;
}

MemoryRoom process_memory() {
  MemoryRoom room{unlimited, "no limit"};
  take_limit(RLIMIT_AS, "ulimit -v", status_bytes("VmSize:"), room);
  take_limit(RLIMIT_DATA, "ulimit -d", status_bytes("VmData:"), room);
  return room;
}

void require_host_memory(double bytes, const std::string& what) {
  const MemoryRoom node = node_memory();
  const MemoryRoom process = process_memory();
  const MemoryRoom& room = process.bytes < node.bytes ? process : node;
  if (bytes > static_cast<double>(room.bytes))
    fail("{} would take {} of memory, and there is room for {} ({})", what, bytes_text(bytes),
         bytes_text(static_cast<double>(room.bytes)), room.bound);
}

}  // namespace tessera
