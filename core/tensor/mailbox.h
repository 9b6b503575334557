// Numbers on their way from a device to its host, which need not wait for them.
//
// A message is copied to pinned memory in the order of the device's stream; the host reads it once its event
// has come. Messages come in the order in which they were posted. The rank's thread only; the device outlives
// the mailbox.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "core/tensor/tensor.h"

namespace tessera {

class Mailbox {
 public:
  // For messages of so many numbers.
  Mailbox(Device& device, std::size_t numbers);
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  void post(const Tensor& message);  // f64, contiguous
  std::size_t waiting() const { return posted_.size(); }
  // The oldest message, taken out; waits for it. At least one must be waiting.
  std::vector<double> take();

 private:
  struct Posted {
    double* slot;
    std::uint64_t event;
  };
  std::size_t bytes() const { return numbers_ * sizeof(double); }

  Device& device_;
  std::size_t numbers_;
  std::deque<Posted> posted_;
  std::vector<double*> free_;  // slots
};

}  // namespace tessera
