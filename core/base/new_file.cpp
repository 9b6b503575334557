#include "core/base/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <optional>
#include <random>
#include <utility>

#include "core/base/error.h"

namespace tessera::io {
namespace {

constexpr int most_links = 40;

// N of /proc/self/fd/N.
std::optional<int> descriptor_of(const fs::path& resolved) {
  if (resolved.parent_path() != "/proc/self/fd") return std::nullopt;
  const std::string name = resolved.filename().string();
  int number = 0;
  const auto result = std::from_chars(name.data(), name.data() + name.size(), number);
  if (result.ec != std::errc() || result.ptr != name.data() + name.size()) return std::nullopt;
  return number;
}

[[noreturn]] void fail_to_create(const fs::path& path, int error_number) {
  fail("cannot create '{}': {}", path.string(), errno_text(error_number));
}

std::string random_digits() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

fs::path resolve_links(const fs::path& path) {
  fs::path at = path;
  std::error_code error;
  const fs::path descriptors = fs::canonical("/proc/self/fd", error);
  for (int links = 0; links < most_links; ++links) {
    const fs::path name = at.filename();
    if (name.empty() || name == "." || name == "..") return fs::weakly_canonical(at, error);  // a folder
    const fs::path folder = fs::canonical(folder_of(at), error);
    if (error) fail("cannot create '{}': {}", path.string(), error.message());
    if (folder == descriptors) return fs::path("/proc/self/fd") / name;
    at = folder / name;
    struct stat info {};
    if (::lstat(at.c_str(), &info) != 0 && errno != ENOENT) fail_to_create(path, errno);
    if (!fs::is_symlink(at, error)) return at;
    const fs::path target = fs::read_symlink(at, error);
    if (error) fail("cannot read the link '{}': {}", at.string(), error.message());
    at = folder / target;  // an absolute target replaces the folder
  }
  fail("cannot create '{}': {}", path.string(), errno_text(ELOOP));
}

fs::path unused_path(const fs::path& path, std::string_view tag) {
  const std::string stem = path.filename().string().substr(0, 200);  // a name has at most 255 bytes
  for (int attempt = 0; attempt < 100; ++attempt) {
    fs::path made = folder_of(path) / fmt::format("{}.{}-{}", stem, tag, random_digits());
    struct stat info {};
    if (::lstat(made.c_str(), &info) != 0 && errno == ENOENT) return made;
  }
  fail("cannot find an unused name beside '{}'", path.string());
}

NewFile::NewFile(const fs::path& path) : NewFile(path, resolve_links(path)) {}

NewFile::NewFile(const fs::path& path, const fs::path& resolved)
    : path_(path), resolved_(resolved), file_(open()) {}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      resolved_(std::move(other.resolved_)),
      temporary_(std::move(other.temporary_)),
      stream_(other.stream_),
      finished_(std::exchange(other.finished_, true)),
      file_(std::move(other.file_)) {}

NewFile::~NewFile() {
  if (!finished_ && !temporary_.empty()) ::unlink(temporary_.c_str());
}

// The descriptor to write to: of a stream as it is, else of a new file.
File NewFile::open() {
  if (const int e = injected_fault("open", path_); e != 0) fail_to_create(path_, e);
  struct stat info {};
  if (const auto number = descriptor_of(resolved_)) {
    stream_ = true;
    const int fd = ::fcntl(*number, F_DUPFD_CLOEXEC, 3);  // opened anew it would begin at the front
    if (fd < 0) fail_to_create(path_, errno);
    return File::adopt(path_, fd);
  }
  if (::lstat(resolved_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    if (S_ISDIR(info.st_mode)) fail_to_create(path_, EISDIR);
    stream_ = true;
    const int fd = ::open(resolved_.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) fail_to_create(path_, errno);
    return File::adopt(path_, fd);
  }
  // An unnamed file gets its name through /proc.
  int fd = -1;
  if (::access("/proc/self/fd", X_OK) == 0)
    fd = ::open(folder_of(resolved_).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
  if (fd < 0) {
    temporary_ = unused_path(resolved_, "tmp");
    fd = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
      temporary_.clear();
      fail_to_create(path_, errno);
    }
  }
  return File::adopt(path_, fd);
}

const fs::path& NewFile::temporary_path() {
  if (!temporary_.empty()) return temporary_;
  const fs::path named = unused_path(resolved_, "tmp");
  const std::string unnamed = fmt::format("/proc/self/fd/{}", file_.descriptor());
  if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, named.c_str(), AT_SYMLINK_FOLLOW) != 0)
    fail_to_create(path_, errno);
  return temporary_ = named;
}

void NewFile::finish() {
  if (stream_) {
    file_.close();
    finished_ = true;
    return;
  }
  file_.sync();
  temporary_path();
  file_.close();
  rename_file(temporary_, resolved_);
  finished_ = true;
  sync_folder(folder_of(resolved_));
}

void write_atomically(const fs::path& path, std::string_view text) {
  NewFile made(path);
  made.file().write(text);
  made.finish();
}

}  // namespace tessera::io
