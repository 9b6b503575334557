#include "core/base/io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace tessera::io {
namespace {

[[noreturn]] void fail_io(const char* verb, const fs::path& path, int error_number) {
  fail("cannot {} '{}': {}", verb, path.string(), errno_text(error_number));
}

// The fault asked for by TESSERA_IO_FAULT, read once.
struct Fault {
  std::string operation;
  long after = 0;
  int error_number = 0;
  bool kill = false;
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
    if (parts.size() < 3) fail_usage("TESSERA_IO_FAULT='{}' is not OP:N:ERRNO[:SUBSTRING]", text);
    operation = parts[0];
    after = std::strtol(parts[1].c_str(), nullptr, 10);
    kill = parts[2] == "KILL";
    error_number = parts[2] == "ENOSPC"   ? ENOSPC
                   : parts[2] == "EDQUOT" ? EDQUOT
                   : parts[2] == "EACCES" ? EACCES
                                          : EIO;
    if (parts.size() > 3) substring = parts[3];
  }
};

// The errno that an injected fault wants this call to fail with, or 0.
int injected(const char* operation, const fs::path& path) {
  static Fault fault;
  if (fault.after == 0 || fault.operation != operation) return 0;
  if (path.string().find(fault.substring) == std::string::npos) return 0;
  if (++fault.calls < fault.after) return 0;
  if (fault.kill) std::raise(SIGKILL);
  return fault.error_number;
}

int open_or_fail(const char* verb, const fs::path& path, int flags) {
  if (const int e = injected("open", path); e != 0) fail_io(verb, path, e);
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) fail_io(verb, path, errno);
  return fd;
}

}  // namespace

File File::open_read(const fs::path& path) {
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
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t File::size() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail_io("stat", path_, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("read", path_, errno);
    if (n == 0)
      fail("'{}' is truncated: it ends at byte {}, {} more were expected", path_.string(), offset,
           out.size());
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

std::size_t File::read_some(std::span<std::byte> out) {
  while (true) {
    const ssize_t n = ::read(fd_, out.data(), out.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) fail_io("read", path_, errno);
  }
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (const int e = injected("write", path_); e != 0) fail_io("write", path_, e);
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void File::write(std::span<const std::byte> bytes) {
  if (const int e = injected("write", path_); e != 0) fail_io("write", path_, e);
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void File::sync() {
  if (const int e = injected("fsync", path_); e != 0) fail_io("fsync", path_, e);
  if (::fsync(fd_) != 0) fail_io("fsync", path_, errno);
}

void File::close() {
  if (::close(std::exchange(fd_, -1)) != 0) fail_io("close", path_, errno);
}

std::string read_text(const fs::path& path, std::uint64_t limit) {
  const File file = File::open_read(path);
  const std::uint64_t size = file.size();
  if (size > limit) fail("'{}' has {} bytes; at most {} are expected here", path.string(), size, limit);
  std::string text(size, '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_atomically(const fs::path& path, std::string_view text) {
  fs::path temporary = path;
  temporary += ".tmp";
  try {
    File file = File::create(temporary);
    file.write(text);
    file.sync();
    file.close();
    rename_file(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

void rename_file(const fs::path& from, const fs::path& to) {
  if (const int e = injected("rename", to); e != 0) fail_io("rename to", to, e);
  if (::rename(from.c_str(), to.c_str()) != 0) fail_io("rename to", to, errno);
}

void remove_file(const fs::path& path) {
  if (const int e = injected("unlink", path); e != 0) fail_io("remove", path, e);
  if (::remove(path.c_str()) != 0 && errno != ENOENT) fail_io("remove", path, errno);
}

void remove_tree(const fs::path& path) {
  if (const int e = injected("unlink", path); e != 0) fail_io("remove", path, e);
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail("cannot remove '{}': {}", path.string(), error.message());
}

void sync_folder(const fs::path& path) {
  const int fd = open_or_fail("fsync", path, O_RDONLY | O_DIRECTORY);
  const int e = injected("fsync", path);
  const int result = e == 0 ? ::fsync(fd) : -1;
  const int error_number = e == 0 ? errno : e;
  ::close(fd);
  if (result != 0) fail_io("fsync", path, error_number);
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
