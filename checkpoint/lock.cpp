#include "checkpoint/lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
constexpr const char* lock_name = "tessera.lock";

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// What follows `word` in a holder's line, to the next blank; "" if it is not there.
std::string field(const std::string& holder, const std::string& word) {
  const std::size_t at = holder.find(word + " ");
  if (at == std::string::npos) return "";
  const std::size_t begin = at + word.size() + 1;
  return holder.substr(begin, holder.find(' ', begin) - begin);
}

constexpr const char* job_word = "Slurm job";
constexpr const char* restart_word = "restart";

std::string describe_self() {
  char when[64] = {};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S %z", localtime_r(&now, &local));
  std::string self = fmt::format("host {} process {} since {}", host_name(), getpid(), when);
  const std::string job = environment("SLURM_JOB_ID");
  const std::string restart = environment("SLURM_RESTART_COUNT");  // Slurm sets it from the first requeue on
  if (!job.empty())
    self += fmt::format(" {} {} {} {}", job_word, job, restart_word, restart.empty() ? "0" : restart);
  return self;
}

long number(const std::string& text) {
  long value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// Whether the holder was a start of this Slurm job that a requeue has ended, wherever it ran.
bool is_earlier_start(const std::string& holder) {
  const std::string self = describe_self();
  const std::string job = field(holder, job_word);
  return !job.empty() && job == field(self, job_word) &&
         number(field(holder, restart_word)) < number(field(self, restart_word));
}

std::string read_holder(const io::File& file) {
  std::string holder(std::min<std::uint64_t>(file.size(), 1024), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(holder)));
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder;
}

// How to know that a holder on another host is gone.
std::string if_gone(const std::string& holder) {
  const std::string job = field(holder, job_word);
  if (!job.empty()) return fmt::format("if `squeue -j {}` no longer shows it", job);
  const std::string host = field(holder, "host");
  const std::string process = field(holder, "process");
  if (host.empty() || process.empty()) return "if it is gone";
  return fmt::format("if `ps -p {}` on {} no longer shows it", process, host);
}

}  // namespace

DirectoryLock::DirectoryLock(const fs::path& dir) : path_(dir / lock_name) {
  take();
}

void DirectoryLock::take() {
  std::error_code error;
  fs::create_directories(path_.parent_path(), error);
  if (error) fail("cannot create '{}': {}", path_.parent_path().string(), error.message());
  while (true) {
    file_ = io::File::open_or_create(path_);
    const bool free = flock(file_->descriptor(), LOCK_EX | LOCK_NB) == 0;
    // A holder that ends removes the file: a lock on a file without a name locks nothing.
    if (free && !is_held()) continue;
    const std::string holder = read_holder(*file_);
    const bool here = holder.starts_with("host " + host_name() + " ");
    if (!here && is_earlier_start(holder)) {
      // Under a new file, so that a start which lives on against Slurm's knowledge notices.
      log::info("took over the lock of an earlier start of this job ({})", holder);
      io::remove_file(path_);
      continue;
    }
    if (!free || (!holder.empty() && !here)) {
      file_.reset();
      fail("another job uses '{}': {}; wait for it, or {} remove '{}'", path_.parent_path().string(),
           holder.empty() ? "its holder is not named" : holder, if_gone(holder), path_.string());
    }
    if (!holder.empty()) log::info("took over the lock that a dead process left ({})", holder);
    break;
  }
  file_->truncate(0);
  if (holder_.empty()) holder_ = describe_self();
  const std::string self = holder_ + "\n";
  file_->write_at(0, std::as_bytes(std::span(self)));
}

bool DirectoryLock::is_held() const {
  struct stat held {};
  struct stat there {};
  return ::fstat(file_->descriptor(), &held) == 0 && ::lstat(path_.c_str(), &there) == 0 &&
         held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

void DirectoryLock::require_held() {
  if (is_held()) return;
  std::error_code error;
  if (!fs::exists(path_.parent_path(), error) && !error) {
    log::warn("'{}' was removed; it is made anew", path_.parent_path().string());
    take();
    return;
  }
  std::string holder;
  try {
    holder = read_holder(io::File::open_read(path_));
  } catch (const Error&) {
    holder = "nobody holds it";
  }
  fail(
      "'{}' is no longer this job's: its lock was removed or replaced ({}); nothing more is written there. "
      "Start again with a checkpoint.dir of its own, or when the other job is over",
      path_.parent_path().string(), holder);
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept
    : path_(std::move(other.path_)),
      holder_(std::move(other.holder_)),
      file_(std::exchange(other.file_, std::nullopt)) {}

void DirectoryLock::release(const fs::path& dir, const std::string& holder) {
  const fs::path path = dir / lock_name;
  std::error_code error;
  if (fs::exists(path, error) && read_holder(io::File::open_read(path)) == holder) ::unlink(path.c_str());
}

DirectoryLock::~DirectoryLock() {
  if (file_ && is_held()) ::unlink(path_.c_str());
}

}  // namespace tessera
