// Times kernels: `tessera bench kernels`.
//
// A kernel bound by memory and a copy within the device run by turns, so that what else the machine does, and
// its clocks, meet both. Times are those between two waits for the device around calls enough to make the
// waits small; medians of the rounds.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "launch/bench/cases.h"

namespace tessera::bench {

struct Speed {
  std::string slot, candidate, shape;
  double bytes = 0;      // of a call; 0 where arithmetic counts
  double flop = 0;       // of a call; 0 where bytes count
  double seconds = 0;    // of a call
  double copy_rate = 0;  // bytes read and written per second by copies at the same time; 0 where flop count
  double rate() const { return (flop > 0 ? flop : bytes) / seconds; }
  double share_of_copy() const { return copy_rate > 0 ? rate() / copy_rate : 0; }
};

struct Timing {
  double least_seconds = 0.02;  // of a round
  int rounds = 5;
};

// Calls `use` with each kernel's speed when it is known: of what the device chooses, then of candidates that
// run on request, plain ones left out. `only`: these slots; empty: all. Gives the number of those that
// failed, each with a line in the log.
int time_kernels(Device& device, const Sizes& sizes, const Timing& timing, const std::set<std::string>& only,
                 const std::function<void(const Speed&)>& use);

}  // namespace tessera::bench
