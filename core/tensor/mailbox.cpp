#include "core/tensor/mailbox.h"

#include <cassert>

#include "core/tensor/device.h"

namespace tessera {

Mailbox::Mailbox(Device& device, std::size_t numbers) : device_(device), numbers_(numbers) {}

Mailbox::~Mailbox() {
  // A copy that is still to come would write into what is freed here: its slot is left.
  if (posted_.empty() || device_.stream().drain())
    for (const Posted& message : posted_) free_.push_back(message.slot);
  for (double* slot : free_) device_.release_pinned(slot);
}

void Mailbox::post(const Tensor& message) {
  assert(message.dtype() == DType::f64 && message.bytes() == bytes() && message.is_contiguous());
  if (free_.empty()) free_.push_back(static_cast<double*>(device_.allocate_pinned(bytes())));
  double* slot = free_.back();
  free_.pop_back();
  device_.copy_behind(slot, message.raw(), bytes());
  posted_.push_back({slot, device_.stream().record()});
}

std::vector<double> Mailbox::take() {
  assert(!posted_.empty());
  const Posted message = posted_.front();
  device_.stream().synchronize(message.event);
  posted_.pop_front();
  free_.push_back(message.slot);
  return {message.slot, message.slot + numbers_};
}

}  // namespace tessera
