#include "core/tensor/kernel.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/log.h"

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

bool KernelSlot::may_stand_in(const Device& device) const {
  const auto wish = device.wished_kernels.find(name_);
  return wish == device.wished_kernels.end() ||
         std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
           return entry.device == device.kind() && entry.candidate == wish->second && !entry.on_request;
         });
}

void KernelSlot::note_stand_in(Device& device, const std::string& candidate) const {
  if (!device.stood_in.insert(name_).second) return;
  std::string others;
  for (const Entry& entry : entries_)
    if (entry.device == device.kind() && entry.candidate != candidate && !entry.on_request)
      others += fmt::format("{}'{}' takes {}", others.empty() ? "; " : ", ", entry.candidate, entry.takes);
  log::warn("{} on {}: kernel '{}' stands in, which is slow{} (`kernels: {{{}: {}}}` asks for it)", name_,
            tessera::name(device.kind()), candidate, others, name_, candidate);
}

void KernelSlot::note_choice(Device& device, const std::string& candidate) const {
  std::string& noted = device.chosen_kernels[name_];
  if (noted == candidate) return;
  // Where sizes decide, it is the first that would be tried, which as a rule gives the others as well.
  if (!noted.empty() && !device.wished_kernels.contains(name_))
    for (const Entry& entry : entries_)
      if (entry.device == device.kind() && (entry.candidate == noted || entry.candidate == candidate)) {
        noted = entry.candidate;
        return;
      }
  noted = candidate;
}

void KernelSlot::no_candidate(const Device& device) const {
  const auto wish = device.wished_kernels.find(name_);
  std::string have;
  for (const Entry& entry : entries_) {
    if (entry.device != device.kind()) continue;
    have += (have.empty() ? "" : "; ") + entry.candidate;
    if (!entry.takes.empty()) have += ", for " + entry.takes;
    if (entry.on_request) have += ", on request";
  }
  fail("no kernel for op '{}' on device {}{} takes these sizes; this build has: {} (config key `kernels`)",
       name_, tessera::name(device.kind()),
       wish == device.wished_kernels.end() ? "" : " named '" + wish->second + "'",
       have.empty() ? "none" : have);
}

}  // namespace tessera
