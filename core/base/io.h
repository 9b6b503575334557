// Files: the one seam through which Tessera reads and writes bytes that matter.
//
// Every failure throws Error naming the path, the operation and the system's reason. Short reads and writes
// and EINTR are handled here. A File belongs to one thread at a time; read_at and write_at take explicit
// offsets, so several threads may use them on one File.
//
// For tests TESSERA_IO_FAULT=OP:N:WHAT[:SUBSTRING] does WHAT at the N-th (from 1) call of OP, and all after
// it, on paths with SUBSTRING. OP: open, read, write, fsync, rename, unlink. WHAT: fail with
// ENOSPC, EIO, …; EINTR, which comes once; SHORT: writes take half of what they are given; KILL the process
// as SIGKILL would; HANG for ever; or take SLOW=SECONDS and go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/base/error.h"

namespace tessera::io {

namespace fs = std::filesystem;

// What is thrown where there is no room: a full disk, a quota, a limit on the size of files.
class DiskFull : public Error {
 public:
  using Error::Error;
};

class File {
 public:
  static File open_read(const fs::path& path);       // a regular file; a directory or FIFO is refused
  static File create(const fs::path& path);          // truncates
  static File open_update(const fs::path& path);     // existing file, for reading and writing
  static File open_or_create(const fs::path& path);  // for both; what is there stays; a link is refused
  static File open_append(const fs::path& path);     // creates if absent
  // Takes an open descriptor; `path` is what messages and injected faults call it.
  static File adopt(const fs::path& path, int descriptor) { return {path, descriptor}; }
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const fs::path& path() const { return path_; }
  int descriptor() const { return fd_; }
  std::uint64_t size() const;
  void read_at(std::uint64_t offset,
               std::span<std::byte> out) const;     // all of it, or throws: file is truncated
  std::size_t read_some(std::span<std::byte> out);  // at the file position; 0 at the end
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void write(std::span<const std::byte> bytes);  // at the file position
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void truncate(std::uint64_t size);
  void sync();   // fsync
  void close();  // reports what close() reports; the destructor cannot

 private:
  File(fs::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  fs::path path_;
  int fd_ = -1;
};

// Whole file as a string; refuses one larger than `limit` bytes.
std::string read_text(const fs::path& path, std::uint64_t limit = std::uint64_t{1} << 30);

void rename_file(const fs::path& from, const fs::path& to);
void remove_file(const fs::path& path);  // a file or an empty folder; absent is fine
void remove_tree(const fs::path& path);  // recursively; absent is fine
void sync_folder(const fs::path& path);

// The errno that an injected fault wants this call of `operation` on `path` to fail with, or 0. For those who
// open files elsewhere.
int injected_fault(const char* operation, const fs::path& path);

// A read-only mapping of a whole file, for one that nobody changes: what is cut from it meanwhile ends the
// process.
class Mapping {
 public:
  explicit Mapping(const fs::path& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace tessera::io
