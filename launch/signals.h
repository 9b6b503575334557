// Which signals reach a thread, and requests to save and stop.
//
// The products that oneDNN generates keep live data below the stack pointer, where the kernel lays the frame
// of a handler: one that runs on a thread which multiplies corrupts results and heap. So no handler ever
// runs: main blocks what may have one before there is any other thread, threads inherit that, and a request
// to stop stays pending until it is asked for. Nothing is lost so, from the first instruction of the program
// on. Process-wide, as signals are.
#pragma once

#include <csignal>

namespace tessera {

// SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, and SIGHUP unless the program was started to ignore it (nohup).
const sigset_t& stop_signals();

// Blocks requests to stop, and what libraries and profilers handle (timers, readiness of files). A file at
// its size limit becomes an error of write. The program calls it before main, once; others have no need to.
void block_signals();

// For a verb with nothing to save: a request, also one that came before, ends the process as it does others.
void release_stop_signals();

// For a child between fork and exec, once the parent has blocked them: programs that are not ours get all of
// these.
void unblock_signals_of_child();

// Besides, a line on standard input asks to stop: what `launch` sends to rank 0, whenever that begins to
// read.
void hear_requests_on_stdin();

// The first request (a signal; SIGTERM for a line), or 0. Further ones change nothing. Any thread.
int stop_request();

}  // namespace tessera
