// A lock on a directory, so that two jobs cannot write the same checkpoints.
//
// The file DIR/tessera.lock names the holder: host, process, start time, Slurm job and how often that was
// requeued. It is held with flock, so a dead process on this host holds nothing; a file left by another host
// is trusted, because flock may not reach across a shared file system, unless it is of an earlier start of
// this Slurm job, which Slurm has ended. One rank of a job takes it; it is released with the object.
#pragma once

#include <filesystem>
#include <optional>

#include "core/base/io.h"

namespace tessera {

class DirectoryLock {
 public:
  // Creates `dir` if absent. Throws Error naming the holder and what to do if another job holds it.
  // A lock that a dead process left is taken over, with a notice.
  explicit DirectoryLock(const std::filesystem::path& dir);
  ~DirectoryLock();
  // Throws Error unless DIR/tessera.lock is still the file that is held: it, or the directory, was removed
  // and may be another job's now. Where the whole directory is gone it is made and locked anew, with a
  // warning.
  void require_held();
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&&) = delete;

  // Names the holder, as the file does.
  const std::string& holder() const { return holder_; }
  // Takes the lock away in the name of its holder, whose job ends by force; does nothing where another has
  // it.
  static void release(const std::filesystem::path& dir, const std::string& holder);

 private:
  void take();
  bool is_held() const;

  std::filesystem::path path_;
  std::string holder_;
  std::optional<io::File> file_;
};

}  // namespace tessera
