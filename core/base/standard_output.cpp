#include "core/base/standard_output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

#include "core/base/error.h"

namespace tessera::standard_output {
namespace {

// A pipe or socket that nobody reads any more.
bool has_no_reader() {
  pollfd state{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & POLLERR) != 0;
}

[[noreturn]] void fail_output(int error_number) {
  if (error_number == EPIPE || has_no_reader())
    throw Error("the reader of standard output has gone", reader_gone);
  if (error_number == 0) fail("cannot write standard output: an earlier write failed");
  fail("cannot write standard output: {}", errno_text(error_number));
}

}  // namespace

void prepare() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    const int wrong_way = fd == STDIN_FILENO ? O_WRONLY : fd == STDOUT_FILENO ? O_RDONLY : O_RDWR;
    const int opened = ::open("/dev/null", wrong_way);  // takes the lowest free number
    if (opened >= 0 && opened != fd) {
      ::dup2(opened, fd);
      ::close(opened);
    }
  }
  std::signal(SIGPIPE, SIG_IGN);
}

void write(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_output(errno);
}

void flush() {
  errno = 0;
  if (std::fflush(stdout) != 0) fail_output(errno);
  if (std::ferror(stdout) != 0) fail_output(0);
}

void finish() {
  flush();
  errno = 0;
  // A file that nothing was written to may have been closed from the start.
  if (std::fclose(stdout) != 0 && errno != EBADF) fail_output(errno);
}

}  // namespace tessera::standard_output
