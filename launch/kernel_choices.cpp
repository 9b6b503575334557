#include "launch/kernel_choices.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/tensor/kernel.h"

namespace tessera {
namespace {

const KernelSlot* find_slot(const std::string& name) {
  for (const KernelSlot* slot : KernelSlot::all())
    if (slot->name() == name) return slot;
  return nullptr;
}

// Of one device, in the order in which they are tried.
std::vector<KernelSlot::Entry> candidates(const KernelSlot& slot, DeviceKind kind) {
  std::vector<KernelSlot::Entry> own;
  std::copy_if(slot.entries().begin(), slot.entries().end(), std::back_inserter(own),
               [&](const KernelSlot::Entry& entry) { return entry.device == kind; });
  return own;
}

std::string listed(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all.empty() ? "none" : all;
}

std::string suggestion(const std::string& word, const std::vector<std::string>& names) {
  const std::string nearest = did_you_mean(word, names);
  return nearest.empty() ? "; there are: " + listed(names) : nearest;
}

}  // namespace

void check_kernels(const Config& config) {
  for (const auto& [name, candidate] : config.kernels) {
    const KernelSlot* slot = find_slot(name);
    std::vector<std::string> names;
    if (slot == nullptr) {
      for (const KernelSlot* one : KernelSlot::all()) names.push_back(one->name());
      std::sort(names.begin(), names.end());
      config.fail_at("kernels." + name, "is no op whose kernel can be chosen" + suggestion(name, names));
    }
    for (const KernelSlot::Entry& entry : candidates(*slot, config.train.device))
      names.push_back(entry.candidate);
    if (std::find(names.begin(), names.end(), candidate) == names.end())
      config.fail_at("kernels." + name,
                     fmt::format("has no candidate '{}' on {}{}", candidate,
                                 tessera::name(config.train.device), suggestion(candidate, names)));
  }
}

std::map<std::string, std::string> resumed_kernels(const Config& config,
                                                   const std::map<std::string, std::string>& saved,
                                                   DeviceKind saved_on, std::vector<std::string>& changes) {
  std::map<std::string, std::string> wishes = config.kernels;
  const DeviceKind kind = config.train.device;
  if (saved_on != kind)
    changes.push_back(fmt::format("train.device {} instead of {}: the run's kernels are chosen anew",
                                  name(kind), name(saved_on)));
  for (const auto& [name, candidate] : saved) {
    if (const auto wish = config.kernels.find(name); wish != config.kernels.end()) {
      if (wish->second != candidate)
        changes.push_back(
            fmt::format("kernels.{} {} instead of the run's {}", name, wish->second, candidate));
      continue;
    }
    if (saved_on != kind) continue;
    const KernelSlot* slot = find_slot(name);
    const auto own = slot == nullptr ? std::vector<KernelSlot::Entry>() : candidates(*slot, kind);
    const auto found = std::find_if(own.begin(), own.end(), [&, &wanted = candidate](const auto& entry) {
      return entry.candidate == wanted;
    });
    if (found == own.end()) {
      changes.push_back(fmt::format("this build lacks the run's kernel {} of {}", candidate, name));
      continue;
    }
    // A wish must be fulfilled, whatever the sizes; a default need not be wished for.
    const auto first =
        std::find_if(own.begin(), own.end(), [](const auto& entry) { return !entry.on_request; });
    if (found != first) wishes[name] = candidate;
  }
  return wishes;
}

}  // namespace tessera
