#include "checkpoint/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"

namespace tessera {
namespace {

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string read_holder(int fd) {
  char text[1024] = {};
  const ssize_t n = pread(fd, text, sizeof text - 1, 0);
  std::string holder(text, n > 0 ? static_cast<std::size_t>(n) : 0);
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder;
}

std::string describe_self() {
  char when[64] = {};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S %z", localtime_r(&now, &local));
  const char* job = std::getenv("SLURM_JOB_ID");
  return fmt::format("host {} process {} since {}{}", host_name(), getpid(), when,
                     job == nullptr ? "" : fmt::format(" Slurm job {}", job));
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& dir) : path_(dir / "tessera.lock") {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) fail("cannot create '{}': {}", dir.string(), error.message());
  bool free = false;
  while (true) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("cannot create '{}': {}", path_.string(), errno_text(errno));
    free = flock(fd_, LOCK_EX | LOCK_NB) == 0;
    // A holder that ends removes the file: a lock on a file without a name locks nothing.
    struct stat opened {};
    if (!free || ::fstat(fd_, &opened) != 0 || opened.st_nlink > 0) break;
    ::close(std::exchange(fd_, -1));
  }
  const std::string holder = read_holder(fd_);
  const bool elsewhere = !holder.empty() && !holder.starts_with("host " + host_name() + " ");
  if (!free || elsewhere) {
    ::close(std::exchange(fd_, -1));
    fail("another job uses '{}': {}; wait for it, or if it is gone remove '{}'", dir.string(),
         holder.empty() ? "its holder is not named" : holder, path_.string());
  }
  if (!holder.empty()) log::info("took over the lock that a dead process left ({})", holder);
  const std::string self = describe_self() + "\n";
  if (ftruncate(fd_, 0) != 0 ||
      pwrite(fd_, self.data(), self.size(), 0) != static_cast<ssize_t>(self.size())) {
    const int error_number = errno;
    ::close(std::exchange(fd_, -1));
    fail("cannot write '{}': {}", path_.string(), errno_text(error_number));
  }
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

DirectoryLock::~DirectoryLock() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());
  ::close(fd_);
}

}  // namespace tessera
