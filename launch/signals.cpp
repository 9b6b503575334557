#include "launch/signals.h"

#include <csignal>

namespace tessera {
namespace {

volatile std::sig_atomic_t requested = 0;

extern "C" void note_request(int signal) {
  requested = signal;
}

}  // namespace

void watch_for_stop_requests() {
  struct sigaction action {};
  action.sa_handler = note_request;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int stop_request() {
  return requested;
}

}  // namespace tessera
