#include "parallel/comm/meeting_table.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 8> magic{'T', 'E', 'S', 'S', 'M', 'E', 'E', 'T'};
constexpr std::uint32_t version = 1;
constexpr std::int64_t places_begin = 1024;

// Cut to what fits, with a zero after it.
template <std::size_t n>
void put(std::array<char, n>& to, const std::string& text) {
  to = {};
  std::memcpy(to.data(), text.data(), std::min(text.size(), n - 1));
}

template <std::size_t n>
std::string text_of(const std::array<char, n>& from) {
  return {from.data(), strnlen(from.data(), n)};
}

struct flock lock_of(int rank, int type) {
  struct flock lock {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

[[noreturn]] void fail_locking(const fs::path& file) {
  fail("cannot lock '{}': {}; name a file on a local file system, as in /dev/shm", file.string(),
       errno_text(errno));
}

}  // namespace

MeetingTable::MeetingTable(const fs::path& file, int ranks, const std::string& program,
                           const std::string& token)
    : file_(file) {
  static_assert(sizeof(Header) <= places_begin);
  if (token.size() > header_.token.size()) fail("a token of {} bytes does not fit a meeting", token.size());
  header_.magic = magic;
  header_.version = version;
  header_.ranks = static_cast<std::uint32_t>(ranks);
  header_.token_bytes = static_cast<std::uint32_t>(token.size());
  put(header_.program, program);
  std::memcpy(header_.token.data(), token.data(), token.size());

  std::string unnamed = file.string() + ".XXXXXX";
  fd_ = ::mkostemp(unnamed.data(), O_CLOEXEC);  // mode 0600
  if (fd_ < 0)
    fail("cannot write '{}': {}; name a file in a folder that is there", file.string(), errno_text(errno));
  try {
    if (::ftruncate(fd_, offset(ranks)) != 0) fail("cannot write '{}': {}", file.string(), errno_text(errno));
    write(0, &header_, sizeof header_);
    if (!hold(0)) fail_locking(file);
    if (::rename(unnamed.c_str(), file.c_str()) != 0)
      fail("cannot write '{}': {}", file.string(), errno_text(errno));
  } catch (...) {
    ::unlink(unnamed.c_str());
    ::close(fd_);
    throw;
  }
}

std::optional<MeetingTable> MeetingTable::open(const fs::path& file) {
  // Not to wait where it is a pipe.
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0 && errno == ENOENT) {
    const fs::path folder = file.parent_path();
    if (!folder.empty() && !fs::is_directory(folder))
      fail_usage("'{}' names a file in a folder that is not there: make it, or name another", file.string());
    return {};
  }
  if (descriptor < 0)
    fail_usage("cannot open '{}': {}; name a file that you may write", file.string(), errno_text(errno));
  MeetingTable table(file, descriptor);
  struct stat facts {};
  if (::fstat(descriptor, &facts) != 0) fail("cannot read '{}': {}", file.string(), errno_text(errno));
  if (S_ISREG(facts.st_mode) && facts.st_uid != ::geteuid())
    fail_usage("'{}' is another user's: name a file of your own", file.string());
  if (!S_ISREG(facts.st_mode) || facts.st_size < places_begin ||
      (table.read(0, &table.header_, sizeof table.header_), table.header_.magic != magic))
    fail_usage("'{}' is there and no file of ranks that meet: name another, or remove it", file.string());
  return table;
}

MeetingTable::MeetingTable(MeetingTable&& other) noexcept
    : file_(std::move(other.file_)), fd_(std::exchange(other.fd_, -1)), header_(other.header_) {}

MeetingTable::~MeetingTable() {
  if (fd_ >= 0) ::close(fd_);
}

bool MeetingTable::is_held(int rank) const {
  struct flock lock = lock_of(rank, F_WRLCK);
  if (::fcntl(fd_, F_OFD_GETLK, &lock) != 0) fail_locking(file_);
  return lock.l_type != F_UNLCK;
}

bool MeetingTable::hold(int rank) {
  struct flock lock = lock_of(rank, F_WRLCK);
  if (::fcntl(fd_, F_OFD_SETLK, &lock) == 0) return true;
  if (errno != EAGAIN && errno != EACCES) fail_locking(file_);
  return false;
}

void MeetingTable::check_version() const {
  if (header_.version != version)
    fail_usage(
        "'{}' is of another version of tessera (format {}, not {}): start the same program on all ranks",
        file_.string(), header_.version, version);
  if (header_.ranks < 1 || header_.token_bytes > header_.token.size())
    fail("'{}' is damaged: remove it, and start all ranks again", file_.string());
}

bool MeetingTable::all_came() const {
  std::uint32_t value = 0;
  read(offsetof(Header, all_came), &value, sizeof value);
  return value != 0;
}

void MeetingTable::say_all_came() {
  const std::uint32_t value = 1;
  write(offsetof(Header, all_came), &value, sizeof value);
}

std::string MeetingTable::refusal() const {
  std::array<char, 512> text{};
  read(offsetof(Header, refusal), text.data(), text.size());
  return text_of(text);
}

void MeetingTable::say_refusal(const std::string& cause) {
  std::array<char, 512> text{};
  put(text, cause);
  write(offsetof(Header, refusal), text.data(), text.size());
}

void MeetingTable::come(int rank, const std::string& device) {
  Place mine;
  put(mine.device, device);
  write(offset(rank), &mine, sizeof mine);
  say_presence(rank, Presence::here);
}

void MeetingTable::say_presence(int rank, Presence presence) {
  write(offset(rank) + static_cast<std::int64_t>(offsetof(Place, presence)), &presence, sizeof presence);
}

void MeetingTable::say_position(int rank, const std::string& text) {
  std::array<char, 124> field{};
  put(field, text);
  write(offset(rank) + static_cast<std::int64_t>(offsetof(Place, position)), field.data(), field.size());
}

Presence MeetingTable::presence(int rank) const {
  return place(rank).presence;
}
std::string MeetingTable::device(int rank) const {
  return text_of(place(rank).device);
}
std::string MeetingTable::position(int rank) const {
  return text_of(place(rank).position);
}

bool MeetingTable::has_name() const {
  struct stat named {};
  struct stat opened {};
  return ::lstat(file_.c_str(), &named) == 0 && ::fstat(fd_, &opened) == 0 && named.st_dev == opened.st_dev &&
         named.st_ino == opened.st_ino;
}

void MeetingTable::remove_name() noexcept {
  if (has_name()) ::unlink(file_.c_str());
}

std::int64_t MeetingTable::offset(int rank) {
  return places_begin + rank * static_cast<std::int64_t>(sizeof(Place));
}

MeetingTable::Place MeetingTable::place(int rank) const {
  Place result;
  read(offset(rank), &result, sizeof result);
  return result;
}

void MeetingTable::read(std::int64_t at, void* to, std::size_t bytes) const {
  const ssize_t got = ::pread(fd_, to, bytes, at);
  if (got == static_cast<ssize_t>(bytes)) return;
  fail("cannot read '{}': {}", file_.string(), got < 0 ? errno_text(errno) : "it is cut short");
}

void MeetingTable::write(std::int64_t at, const void* from, std::size_t bytes) {
  const ssize_t put_out = ::pwrite(fd_, from, bytes, at);
  if (put_out == static_cast<ssize_t>(bytes)) return;
  fail("cannot write '{}': {}", file_.string(), put_out < 0 ? errno_text(errno) : "no room");
}

}  // namespace tessera
