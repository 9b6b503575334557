// Files that appear whole: a new one takes its place only once every byte of it is on disk.
//
// Until finish() the bytes lie in a file without a name, in the folder of the path (a killed process leaves
// nothing), or, where the file system has none such, under a random name that nothing had before. Links are
// followed: what a link names is replaced, never the link. What cannot be replaced, a device, a pipe or an
// open descriptor (/dev/stdout), is a stream instead: bytes go there as they are written, from front to back.
//
// Every failure throws Error naming the path. A NewFile belongs to one thread at a time.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/io.h"

namespace tessera::io {

// Where a path leads once its links are followed: an absolute path that is no link and may not exist yet, or
// /proc/self/fd/N for what is open already. Throws Error where the folder is missing or links go in circles.
fs::path resolve_links(const fs::path& path);

class NewFile {
 public:
  explicit NewFile(const fs::path& path);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();  // without finish() nothing is left, and what stood at the path still does

  const fs::path& path() const { return path_; }
  bool is_stream() const { return stream_; }
  File& file() { return file_; }
  // A name that it has from then on, by which a library can open it before finish(); not of a stream.
  const fs::path& temporary_path();
  // Syncs, closes and puts the file in its place; afterwards it survives a crash.
  void finish();

 private:
  NewFile(const fs::path& path, const fs::path& resolved);
  File open();
  fs::path path_, resolved_;
  fs::path temporary_;  // empty while it has no name
  bool stream_ = false;
  bool finished_ = false;
  File file_;
};

// A path in the same folder that does not exist: "NAME.TAG-1f0c…", random.
fs::path unused_path(const fs::path& path, std::string_view tag);

// A whole file of this text.
void write_atomically(const fs::path& path, std::string_view text);

}  // namespace tessera::io
