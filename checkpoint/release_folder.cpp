#include "checkpoint/release_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "checkpoint/publish.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/new_file.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view tag = "publishing";
constexpr std::uint64_t largest_hashed = std::uint64_t{1} << 26;

fs::path named(const fs::path& to) {
  fs::path name = to.has_filename() ? to : to.parent_path();
  if (name.empty()) fail_usage("the name of the directory to publish to is empty");
  return name;
}

// Where it is to lie, its parents made.
fs::path place_of(const fs::path& to) {
  const fs::path name = named(to);
  std::error_code error;
  if (name.has_parent_path()) fs::create_directories(name.parent_path(), error);
  return io::resolve_links(name);
}

// Takes the folder's lock; -1 where another process has it.
int lock_folder(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || ::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

// What processes that were killed left beside `to`: named so, marked and locked by nobody.
void remove_leftovers(const fs::path& to) {
  const std::string prefix = fmt::format("{}.{}-", to.filename().string(), tag);
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(to.parent_path(), error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  for (const fs::path& path : found) {
    if (!fs::exists(path / ReleaseFolder::marker, error)) continue;
    const int fd = lock_folder(path);
    if (fd < 0) continue;
    fs::remove_all(path, error);
    ::close(fd);
  }
}

bool holds_files_alone(const fs::path& dir) {
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.is_symlink() || !entry.is_regular_file()) return false;
  return true;
}

}  // namespace

void check_destination(const PublishOptions& options) {
  const fs::path to = named(options.to);
  if (!fs::exists(to)) return;
  if (!fs::is_directory(to))
    fail_usage("'{}' is no directory, and a release is one; choose a new directory", options.to.string());
  if (fs::is_empty(to) || is_release_of_tessera(to)) return;
  if (!options.force)
    fail_usage(
        "'{}' already holds something that is no release as tessera publish left it; choose a new directory, "
        "or replace it with --force",
        options.to.string());
  if (!holds_files_alone(to))
    fail_usage("'{}' holds more than files: --force does not remove that; choose a new directory",
               options.to.string());
}

bool is_release_of_tessera(const fs::path& dir) {
  try {
    if (!holds_files_alone(dir)) return false;
    if (io::read_text(dir / "README.md").find("Published by Tessera") == std::string::npos) return false;
    const std::string sums = io::read_text(dir / "SHA256SUMS");
    std::size_t listed = 0;
    for (std::size_t begin = 0; begin < sums.size(); ++listed) {
      const std::size_t end = sums.find('\n', begin);
      if (end == std::string::npos || end - begin < 67) return false;
      const std::string name = sums.substr(begin + 66, end - begin - 66);
      const fs::path file = dir / fs::path(name).filename();
      if (!fs::is_regular_file(file)) return false;
      if (fs::file_size(file) <= largest_hashed && sha256_hex_of_file(file) != sums.substr(begin, 64))
        return false;
      begin = end + 1;
    }
    const auto all = std::distance(fs::directory_iterator(dir), fs::directory_iterator());
    return listed + 1 == static_cast<std::size_t>(all);
  } catch (const std::exception&) {  // a file is missing or cannot be read
    return false;
  }
}

ReleaseFolder::ReleaseFolder(const fs::path& to) : to_(place_of(to)) {
  remove_leftovers(to_);
  path_ = io::unused_path(to_, tag);
  std::error_code error;
  if (!fs::create_directory(path_, error)) fail("cannot create '{}': {}", path_.string(), error.message());
  lock_ = lock_folder(path_);
  io::File::create(path_ / marker).close();
}

ReleaseFolder::~ReleaseFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void ReleaseFolder::put_in_place() {
  io::remove_file(path_ / marker);
  io::sync_folder(path_);
  if (!fs::exists(to_)) {
    io::rename_file(path_, to_);
    path_.clear();
  } else if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, to_.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) fail("cannot replace '{}': {}", to_.string(), errno_text(errno));
    const fs::path old = io::unused_path(to_, tag);  // a file system that cannot exchange
    io::rename_file(to_, old);
    io::rename_file(path_, to_);
    path_ = old;
  }
  io::sync_folder(to_.parent_path());
  if (!path_.empty()) io::remove_tree(path_);  // what stood there
  path_.clear();
}

}  // namespace tessera
