#include "launch/signals.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <ctime>

namespace tessera {
namespace {

constexpr std::array stopping{SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
constexpr std::array handled_elsewhere{SIGALRM, SIGVTALRM, SIGPROF, SIGIO};

bool file_limit_is_ours = false;  // that SIGXFSZ was not ignored before
std::atomic<bool> listening{false};
std::atomic<int> requested{0};

bool is_ignored(int number) {
  struct sigaction action {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

// Under nohup SIGHUP is ignored, which blocking would undo. Other signals count also where a shell, of what
// it starts in the background, ignores them.
sigset_t make_stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : stopping)
    if (number != SIGHUP || !is_ignored(SIGHUP)) sigaddset(&set, number);
  return set;
}

const sigset_t& blocked_signals() {
  static const sigset_t set = [] {
    sigset_t all = stop_signals();
    for (const int number : handled_elsewhere) sigaddset(&all, number);
    return all;
  }();
  return set;
}

bool line_on_stdin() {
  std::array<char, 64> text{};
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (poll(&input, 1, 0) != 1) return false;
  if (read(STDIN_FILENO, text.data(), text.size()) > 0) return true;
  listening = false;  // the end of input
  return false;
}

}  // namespace

const sigset_t& stop_signals() {
  static const sigset_t set = make_stop_signals();
  return set;
}

void block_signals() {
  pthread_sigmask(SIG_BLOCK, &blocked_signals(), nullptr);
  file_limit_is_ours = !is_ignored(SIGXFSZ);
  std::signal(SIGXFSZ, SIG_IGN);
}

void release_stop_signals() {
  pthread_sigmask(SIG_UNBLOCK, &stop_signals(), nullptr);
}

void unblock_signals_of_child() {
  if (file_limit_is_ours) std::signal(SIGXFSZ, SIG_DFL);
  sigprocmask(SIG_UNBLOCK, &blocked_signals(), nullptr);
}

void hear_requests_on_stdin() {
  listening = true;
}

int stop_request() {
  if (requested == 0) {
    constexpr timespec at_once{};
    if (const int number = sigtimedwait(&stop_signals(), nullptr, &at_once); number > 0)
      requested = number;
    else if (listening && line_on_stdin())
      requested = SIGTERM;
  }
  return requested;
}

}  // namespace tessera
