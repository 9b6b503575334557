// What checkpoints need from the ranks of a job: very little, so that they need no MPI.
//
// Every member is collective: all ranks call it, in the same order. The owner adapts a process group to it
// (launch does); `alone()` serves a single process. An object belongs to one rank's thread.
#pragma once

#include <string>
#include <vector>

namespace tessera {

class Coordination {
 public:
  virtual ~Coordination() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // On rank 0 every rank's text in order of rank; elsewhere empty.
  virtual std::vector<std::string> gather_text(const std::string& text) = 0;
  // Rank 0's text, on every rank.
  virtual std::string broadcast_text(const std::string& text) = 0;
  // Whether every rank said true.
  virtual bool agree(bool ok) = 0;
};

// A job of one rank. Stateless, hence safe to share.
Coordination& alone();

}  // namespace tessera
