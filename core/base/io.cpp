#include "core/base/io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/activity.h"
#include "core/base/error.h"
#include "core/base/standard_output.h"

namespace tessera::io {
namespace {

// Bytes that one system call is asked for: so that a slow disk shows progress.
constexpr std::size_t piece_bytes = std::size_t{4} << 20;

[[noreturn]] void fail_io(const char* verb, const fs::path& path, int error_number) {
  rlimit limit{};
  if (error_number == EMFILE && ::getrlimit(RLIMIT_NOFILE, &limit) == 0)
    fail("cannot {} '{}': {} files are open, and no more are allowed; raise the limit (ulimit -n)", verb,
         path.string(), limit.rlim_cur);
  const std::string message =
      fmt::format("cannot {} '{}': {}", verb, path.string(), errno_text(error_number));
  if (error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG) throw DiskFull(message);
  throw Error(message, error_number == EPIPE ? standard_output::reader_gone : ExitCode::failure);
}

constexpr int short_count = -1;  // in place of an errno

// The fault asked for by TESSERA_IO_FAULT, read once.
struct Fault {
  std::string operation;
  long after = 0;
  int error_number = 0;
  bool kill = false;
  bool hang = false;
  double seconds = 0;  // that a call takes
  std::string substring;
  std::atomic<long> calls{0};

  Fault() {
    const char* text = std::getenv("TESSERA_IO_FAULT");
    if (text == nullptr) return;
    std::vector<std::string> parts(1);
    for (const char* c = text; *c != 0; ++c)
      if (*c == ':' && parts.size() < 4)
        parts.emplace_back();
      else
        parts.back() += *c;
    if (parts.size() < 3) fail_usage("TESSERA_IO_FAULT='{}' is not OP:N:WHAT[:SUBSTRING]", text);
    operation = parts[0];
    after = std::strtol(parts[1].c_str(), nullptr, 10);
    kill = parts[2] == "KILL";
    hang = parts[2] == "HANG";
    if (parts[2].starts_with("SLOW=")) seconds = std::strtod(parts[2].c_str() + 5, nullptr);
    error_number = parts[2] == "ENOSPC"   ? ENOSPC
                   : parts[2] == "EDQUOT" ? EDQUOT
                   : parts[2] == "EACCES" ? EACCES
                   : parts[2] == "EINTR"  ? EINTR
                   : parts[2] == "SHORT"  ? short_count
                                          : EIO;
    if (parts.size() > 3) substring = parts[3];
  }
};

// The errno that an injected fault wants this call to fail with, or 0.
int injected(const char* operation, const fs::path& path) {
  static Fault fault;
  if (fault.after == 0 || fault.operation != operation) return 0;
  if (path.string().find(fault.substring) == std::string::npos) return 0;
  const long call = ++fault.calls;
  if (call < fault.after || (fault.error_number == EINTR && call > fault.after)) return 0;
  if (fault.kill) std::raise(SIGKILL);
  while (fault.hang) std::this_thread::sleep_for(std::chrono::hours(1));
  if (fault.seconds > 0) {
    std::this_thread::sleep_for(std::chrono::duration<double>(fault.seconds));
    return 0;
  }
  return fault.error_number;
}

// One call of write() or, from an offset, pwrite(): what it returns.
ssize_t write_some(int fd, const fs::path& path, std::span<const std::byte> bytes, const off_t* offset) {
  const int e = injected("write", path);
  if (e == short_count) bytes = bytes.first((bytes.size() + 1) / 2);
  if (e > 0) {
    errno = e;
    return -1;
  }
  return offset == nullptr ? ::write(fd, bytes.data(), bytes.size())
                           : ::pwrite(fd, bytes.data(), bytes.size(), *offset);
}

// 0 or what went wrong.
int fsync_of(int fd, const fs::path& path) {
  while (true) {
    const int e = injected("fsync", path);
    const int error_number = e > 0 ? e : ::fsync(fd) == 0 ? 0 : errno;
    if (error_number != EINTR) return error_number;
  }
}

int open_or_fail(const char* verb, const fs::path& path, int flags) {
  const DoingScope scope(Doing::uses_storage, "open of", path);
  while (true) {
    const int e = injected("open", path);
    const int fd = e > 0 ? -1 : ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd >= 0) return fd;
    const int error_number = e > 0 ? e : errno;
    if (error_number != EINTR) fail_io(verb, path, error_number);
  }
}

}  // namespace

File File::open_read(const fs::path& path) {
  const DoingScope scope(Doing::uses_storage, "open of", path);
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail_io("read", path, errno);
  if (!S_ISREG(info.st_mode)) fail("cannot read '{}': not a regular file", path.string());
  return {path, open_or_fail("read", path, O_RDONLY)};
}
File File::create(const fs::path& path) {
  return {path, open_or_fail("create", path, O_RDWR | O_CREAT | O_TRUNC)};
}
File File::open_update(const fs::path& path) {
  return {path, open_or_fail("update", path, O_RDWR)};
}
File File::open_or_create(const fs::path& path) {
  return {path, open_or_fail("create", path, O_RDWR | O_CREAT | O_NOFOLLOW)};
}
File File::open_append(const fs::path& path) {
  return {path, open_or_fail("append to", path, O_WRONLY | O_CREAT | O_APPEND)};
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}
File::~File() {
  if (fd_ < 0) return;
  const DoingScope scope(Doing::uses_storage, "close of", path_);
  ::close(fd_);
}

std::uint64_t File::size() const {
  const DoingScope scope(Doing::uses_storage, "stat of", path_);
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail_io("stat", path_, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  const DoingScope scope(Doing::uses_storage, "read of", path_);
  if (const int e = injected("read", path_); e > 0) fail_io("read", path_, e);
  while (!out.empty()) {
    const std::size_t piece = std::min(out.size(), piece_bytes);
    const ssize_t n = ::pread(fd_, out.data(), piece, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("read", path_, errno);
    if (n == 0)
      fail("'{}' is truncated: it ends at byte {}, {} more were expected", path_.string(), offset,
           out.size());
    note_progress();
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

std::size_t File::read_some(std::span<std::byte> out) {
  const DoingScope scope(Doing::uses_storage, "read of", path_);
  if (const int e = injected("read", path_); e > 0) fail_io("read", path_, e);
  while (true) {
    const ssize_t n = ::read(fd_, out.data(), out.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) fail_io("read", path_, errno);
  }
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  const DoingScope scope(Doing::uses_storage, "write of", path_);
  while (!bytes.empty()) {
    const auto at = static_cast<off_t>(offset);
    const std::size_t piece = std::min(bytes.size(), piece_bytes);
    const ssize_t n = write_some(fd_, path_, bytes.first(piece), &at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", path_, errno);
    note_progress();
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void File::write(std::span<const std::byte> bytes) {
  const DoingScope scope(Doing::uses_storage, "write of", path_);
  while (!bytes.empty()) {
    const ssize_t n = write_some(fd_, path_, bytes.first(std::min(bytes.size(), piece_bytes)), nullptr);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", path_, errno);
    note_progress();
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void File::truncate(std::uint64_t size) {
  int result = 0;
  do result = ::ftruncate(fd_, static_cast<off_t>(size));
  while (result != 0 && errno == EINTR);
  if (result != 0) fail_io("cut", path_, errno);
}

void File::sync() {
  const DoingScope scope(Doing::uses_storage, "fsync of", path_);
  if (const int e = fsync_of(fd_, path_); e != 0) fail_io("fsync", path_, e);
}

void File::close() {
  const DoingScope scope(Doing::uses_storage, "close of", path_);
  // Linux has closed it whatever it says, and EINTR loses nothing that sync() has not reported.
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail_io("close", path_, errno);
}

std::string read_text(const fs::path& path, std::uint64_t limit) {
  const File file = File::open_read(path);
  const std::uint64_t size = file.size();
  if (size > limit) fail("'{}' has {} bytes; at most {} are expected here", path.string(), size, limit);
  std::string text(size, '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

int injected_fault(const char* operation, const fs::path& path) {
  return std::max(0, injected(operation, path));
}

void rename_file(const fs::path& from, const fs::path& to) {
  const DoingScope scope(Doing::uses_storage, "rename to", to);
  if (const int e = injected("rename", to); e != 0) fail_io("rename to", to, e);
  if (::rename(from.c_str(), to.c_str()) != 0) fail_io("rename to", to, errno);
}

void remove_file(const fs::path& path) {
  const DoingScope scope(Doing::uses_storage, "removal of", path);
  if (const int e = injected("unlink", path); e != 0) fail_io("remove", path, e);
  if (::remove(path.c_str()) != 0 && errno != ENOENT) fail_io("remove", path, errno);
}

void remove_tree(const fs::path& path) {
  const DoingScope scope(Doing::uses_storage, "removal of", path);
  if (const int e = injected("unlink", path); e != 0) fail_io("remove", path, e);
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail("cannot remove '{}': {}", path.string(), error.message());
}

void sync_folder(const fs::path& path) {
  const DoingScope scope(Doing::uses_storage, "fsync of", path);
  const int fd = open_or_fail("fsync", path, O_RDONLY | O_DIRECTORY);
  const int error_number = fsync_of(fd, path);
  ::close(fd);
  if (error_number != 0) fail_io("fsync", path, error_number);
}

Mapping::Mapping(const fs::path& path) {
  const File file = File::open_read(path);
  size_ = file.size();
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (address == MAP_FAILED) fail_io("map", path, errno);
  data_ = static_cast<const std::byte*>(address);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace tessera::io
