// An op's slot: for each device an ordered list of named candidates that compute it.
//
// The op declares the slot beside itself as a function returning a static Kernel<Args>, where Args is a plain
// struct of its tensors and scalars. A backend file registers candidates with a file-level Register<Args>;
// backends are linked as object files, so registrars survive. Slots are filled before main() and constant
// afterwards: any thread may call.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/tensor/device.h"
#include "core/tensor/tensor.h"

namespace tessera {

// Scratch memory of one kernel call, on the device.
struct Workspace {
  void* address = nullptr;
  std::size_t bytes = 0;
};

// What every slot shows: its name and its candidates, for listings and the completeness test.
class KernelSlot {
 public:
  struct Entry {
    DeviceKind device;
    std::string candidate;
    bool deterministic;
    bool on_request;
    std::string takes;  // "" if anything
  };
  const std::string& name() const { return name_; }
  const std::vector<Entry>& entries() const { return entries_; }
  // Every slot that has been touched; backends touch theirs when they register.
  static const std::vector<const KernelSlot*>& all();

 protected:
  explicit KernelSlot(std::string name);
  // True if `candidate` is the one wished for, or none is and it does not wait for that.
  bool allowed(const Device& device, const std::string& candidate, bool on_request) const;
  // True unless the wish is for what runs on request only: wishing for a default is no stronger than a
  // default.
  bool may_stand_in(const Device& device) const;
  // Warns, once for a device, that `candidate` runs unasked. No choice: a resumed run chooses, and warns,
  // anew.
  void note_stand_in(Device& device, const std::string& candidate) const;
  // In device.chosen_kernels.
  void note_choice(Device& device, const std::string& candidate) const;
  [[noreturn]] void no_candidate(const Device& device) const;
  std::vector<Entry> entries_;

 private:
  std::string name_;
};

template <class Args>
class Kernel : public KernelSlot {
 public:
  struct Candidate {
    DeviceKind device;
    std::string name;
    void (*run)(const Args&, Workspace) = nullptr;
    bool (*can_run)(const Args&) = nullptr;  // absent: always
    // Absent: none. Must not read tensor data, and asks tensors' device().modelled() for what it knows: the
    // tensors may be on meta. Throws Error where the candidate would have to refuse.
    std::size_t (*workspace_bytes)(const Args&) = nullptr;
    bool deterministic = true;
    bool on_request = false;  // runs only where device.wished_kernels names it, or
    bool stands_in = false;   // where none of the others can run; that is said in the log
    const char* takes = "";   // what can_run asks for, for messages
  };

  explicit Kernel(std::string name) : KernelSlot(std::move(name)) {}

  void add(Candidate candidate) {
    entries_.push_back(
        {candidate.device, candidate.name, candidate.deterministic, candidate.on_request, candidate.takes});
    candidates_.push_back(std::move(candidate));
  }

  // Runs the first candidate that may and can. On meta only its workspace is accounted for: that of the
  // device it stands for, or of a CPU.
  void operator()(const Args& args, Device& device) const {
    const Device& chooser = device.modelled();
    const DeviceKind kind = chooser.kind() == DeviceKind::meta ? DeviceKind::cpu : chooser.kind();
    const Candidate* stand_in = nullptr;
    for (const Candidate& candidate : candidates_) {
      if (candidate.device != kind || (candidate.can_run != nullptr && !candidate.can_run(args))) continue;
      if (allowed(chooser, candidate.name, candidate.on_request)) {
        run(candidate, args, device);
        if (device.kind() != DeviceKind::meta) note_choice(device, candidate.name);
        return;
      }
      if (candidate.stands_in && may_stand_in(chooser)) stand_in = &candidate;
    }
    if (stand_in == nullptr) no_candidate(chooser);
    if (device.kind() != DeviceKind::meta) note_stand_in(device, stand_in->name);
    run(*stand_in, args, device);
  }

 private:
  void run(const Candidate& candidate, const Args& args, Device& device) const {
    const std::size_t bytes = candidate.workspace_bytes == nullptr ? 0 : candidate.workspace_bytes(args);
    const MemoryScope scope(device, MemoryUse::workspace);
    const Storage scratch(device, bytes);
    if (device.kind() != DeviceKind::meta) candidate.run(args, {scratch.address(), bytes});
  }

  std::vector<Candidate> candidates_;
};

template <class Args>
struct Register {
  Register(Kernel<Args>& slot, typename Kernel<Args>::Candidate candidate) { slot.add(std::move(candidate)); }
};

}  // namespace tessera
