#include "launch/supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launch/notices.h"
#include "launch/signals.h"

namespace tessera {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }
  operator int() const { return fd_; }

 private:
  int fd_;
};

struct Pipe {
  Descriptor read, write;
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) fail("cannot make a pipe: {}", errno_text(errno));
    read.reset(ends[0]);
    write.reset(ends[1]);
  }
};

bool is_in_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return access(program.c_str(), X_OK) == 0;
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access(folder.append("/").append(program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // nobody hears; the job goes on
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

// What `run_command` takes: requests, and SIGQUIT.
sigset_t watched_signals() {
  sigset_t set = stop_signals();
  sigaddset(&set, SIGQUIT);
  return set;
}

[[noreturn]] void become(const LaunchCommand& command, pid_t parent, const Pipe& input, const Pipe& errors,
                         const sigset_t& watched) {
  setpgid(0, 0);  // Ctrl-C on the terminal reaches the parent alone
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  dup2(input.read, STDIN_FILENO);
  dup2(errors.write, STDERR_FILENO);
  std::signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_UNBLOCK, &watched, nullptr);
  unblock_signals_of_child();
  for (const auto& [name, value] : command.environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& argument : command.arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  _exit(127);
}

class Supervisor {
 public:
  explicit Supervisor(const LaunchCommand& command) {
    const sigset_t watched = watched_signals();
    std::signal(SIGCHLD, SIG_DFL);  // an ignored one would take the exit code along
    std::signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &watched, &mask_before_);  // before the child: nothing is lost in between
    const pid_t parent = getpid();
    child_ = fork();
    if (child_ < 0) fail("cannot start {}: {}", command.arguments.front(), errno_text(errno));
    if (child_ == 0) become(command, parent, input_, errors_, watched);
    input_.read.reset();
    errors_.write.reset();
    fcntl(errors_.read, F_SETFL, O_NONBLOCK);
    signals_.reset(signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
    if (signals_ < 0) fail("cannot watch signals: {}", errno_text(errno));
    end_.reset(static_cast<int>(syscall(SYS_pidfd_open, child_, 0)));
  }
  ~Supervisor() { pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr); }
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  int wait() {
    int status = 0;
    pid_t ended = 0;
    while ((ended = waitpid(child_, &status, WNOHANG)) == 0) {
      std::array<pollfd, 3> sources{pollfd{signals_, POLLIN, 0}, pollfd{errors_.read, POLLIN, 0},
                                    pollfd{end_, POLLIN, 0}};
      poll(sources.data(), sources.size(), end_ < 0 ? 50 : -1);
      take_signals();
      show_errors();
    }
    if (ended < 0) fail("waiting for a job: {}", errno_text(errno));
    show_errors();
    write_all(STDERR_FILENO, notices_.rest());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  void take_signals() {
    signalfd_siginfo signal{};
    while (read(signals_, &signal, sizeof signal) == sizeof signal) {
      const int number = static_cast<int>(signal.ssi_signo);
      if (number == SIGQUIT)
        kill(child_, std::exchange(told_to_end_, true) ? SIGKILL : SIGTERM);
      else
        ask_to_stop();
    }
  }

  void ask_to_stop() {
    if (std::exchange(asked_, true)) return;
    write_all(input_.write, "stop\n");
    log::info(
        "asked the ranks to save and stop, which they do at the end of a step; Ctrl-\\ (SIGQUIT) ends them "
        "now");
  }

  void show_errors() {
    std::array<char, 4096> bytes{};
    for (ssize_t n = 0; (n = read(errors_.read, bytes.data(), bytes.size())) != 0;) {
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return;  // nothing now
      write_all(STDERR_FILENO, notices_.pass({bytes.data(), static_cast<std::size_t>(n)}));
    }
    errors_.read.reset();  // all who had it are gone
  }

  Pipe input_, errors_;
  Descriptor signals_, end_;
  sigset_t mask_before_{};
  pid_t child_ = 0;
  bool asked_ = false;
  bool told_to_end_ = false;
  LaunchNotices notices_;
};

}  // namespace

int run_command(const LaunchCommand& command) {
  const std::string& program = command.arguments.front();
  if (!is_in_path(program)) {
    fail("{} is not in PATH; {}", program,
         program == "srun" ? "run this where Slurm is installed" : "install Open MPI (Debian: openmpi-bin)");
  }
  return Supervisor(command).wait();
}

}  // namespace tessera
