#include "core/tensor/kernel.h"

#include "core/base/error.h"

namespace tessera {
namespace {

std::vector<const KernelSlot*>& registry() {
  static std::vector<const KernelSlot*> slots;
  return slots;
}

}  // namespace

KernelSlot::KernelSlot(std::string name) : name_(std::move(name)) {
  registry().push_back(this);
}

const std::vector<const KernelSlot*>& KernelSlot::all() {
  return registry();
}

bool KernelSlot::allowed(const Device& device, const std::string& candidate, bool on_request) const {
  if (device.wished_kernels.empty()) return !on_request;
  const auto wish = device.wished_kernels.find(name_);
  return wish == device.wished_kernels.end() ? !on_request : wish->second == candidate;
}

void KernelSlot::note_choice(Device& device, const std::string& candidate) const {
  std::string& noted = device.chosen_kernels[name_];
  if (noted != candidate) noted = candidate;
}

void KernelSlot::no_candidate(const Device& device) const {
  const auto wish = device.wished_kernels.find(name_);
  std::string have;
  for (const Entry& entry : entries_)
    if (entry.device == device.kind()) have += (have.empty() ? "" : ", ") + entry.candidate;
  fail("no kernel for op '{}' on device {}{} takes these sizes; this build has: {} (config key `kernels`)",
       name_, tessera::name(device.kind()),
       wish == device.wished_kernels.end() ? "" : " named '" + wish->second + "'",
       have.empty() ? "none" : have);
}

}  // namespace tessera
