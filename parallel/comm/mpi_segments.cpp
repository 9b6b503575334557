#include "parallel/comm/mpi_segments.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr const char* setting = "OMPI_MCA_btl_vader_backing_directory";

// Of this user: others can put nothing there.
fs::path folder_of_user() {
  const fs::path folder = fmt::format("/dev/shm/tessera.{}", geteuid());
  ::mkdir(folder.c_str(), 0700);
  struct stat facts {};
  const bool ours =
      ::lstat(folder.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode) && facts.st_uid == geteuid();
  return ours && (facts.st_mode & 022) == 0 ? folder : fs::path();
}

// The folder's descriptor, locked; −1 where another process holds it, or it is gone.
int lock(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat facts {};
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &facts) == 0 && facts.st_nlink > 0) return fd;
  ::close(fd);
  return -1;
}

void remove_left_over(const fs::path& parent) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const int fd = lock(entry.path());
    if (fd < 0) continue;
    fs::remove_all(entry.path(), error);
    ::close(fd);
  }
}

}  // namespace

MpiSegments::MpiSegments() {
  if (std::getenv(setting) != nullptr) return;
  const fs::path parent = folder_of_user();
  if (parent.empty()) return;
  remove_left_over(parent);
  // Another process may take a new folder for a left one before it is locked.
  for (int i = 0; i < 100 && lock_ < 0; ++i) {
    folder_ = parent / fmt::format("{}.{}", getpid(), i);
    if (::mkdir(folder_.c_str(), 0700) == 0) lock_ = lock(folder_);
  }
  if (lock_ < 0)
    folder_.clear();
  else
    ::setenv(setting, folder_.c_str(), 1);
}

MpiSegments::~MpiSegments() {
  if (lock_ < 0) return;
  std::error_code error;
  fs::remove_all(folder_, error);
  ::close(lock_);
  ::unsetenv(setting);
}

void MpiSegments::hide() {
  std::error_code error;
  if (lock_ < 0) return;
  for (const auto& entry : fs::directory_iterator(folder_, error)) hidden_.push_back(entry.path());
  for (const fs::path& path : hidden_) fs::remove(path, error);
}

void MpiSegments::show() const {
  for (const fs::path& path : hidden_)
    if (const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600); fd >= 0) ::close(fd);
}

}  // namespace tessera
