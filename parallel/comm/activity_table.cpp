#include "parallel/comm/activity_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr std::size_t head_bytes = 64;

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<double>::is_always_lock_free);

}  // namespace

std::size_t ActivityTable::bytes(int ranks) {
  return head_bytes + static_cast<std::size_t>(ranks) * sizeof(Activity);
}

ActivityTable::ActivityTable(int ranks) : ActivityTable(-1, 0, ranks, true) {}

ActivityTable::ActivityTable(int file, std::int64_t offset, int ranks, bool first) : ranks_(ranks) {
  memory_ = ::mmap(nullptr, bytes(ranks), PROT_READ | PROT_WRITE,
                   file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, offset);
  if (memory_ == MAP_FAILED) fail("cannot map a table of {} ranks: {}", ranks, errno_text(errno));
  static_assert(sizeof(Head) <= head_bytes);
  head_ = static_cast<Head*>(memory_);
  activities_ = reinterpret_cast<Activity*>(static_cast<std::byte*>(memory_) + head_bytes);
  if (!first) return;
  new (head_) Head;
  for (int rank = 0; rank < ranks; ++rank) new (activities_ + rank) Activity;
}

ActivityTable::~ActivityTable() {
  ::munmap(memory_, bytes(ranks_));
}

int make_memory_file(std::size_t bytes) {
  const int file = ::memfd_create("tessera ranks", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(bytes)) == 0) return file;
  ::close(file);
  return -1;
}

int open_memory_file(pid_t process, int file) {
  return ::open(fmt::format("/proc/{}/fd/{}", process, file).c_str(), O_RDWR | O_CLOEXEC);
}

}  // namespace tessera
