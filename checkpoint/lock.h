// A lock on a directory, so that two jobs cannot write the same checkpoints.
//
// The file DIR/tessera.lock names the holder: host, process, start time, Slurm job. It is held with flock, so
// a dead process on this host holds nothing; a file left by another host is trusted, because flock may not
// reach across a shared file system. One rank of a job takes it; it is released with the object.
#pragma once

#include <filesystem>
#include <string>

namespace tessera {

class DirectoryLock {
 public:
  // Creates `dir` if absent. Throws Error naming the holder and what to do if another job holds it.
  // A lock that a dead process left is taken over, with a notice.
  explicit DirectoryLock(const std::filesystem::path& dir);
  ~DirectoryLock();
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&&) = delete;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace tessera
