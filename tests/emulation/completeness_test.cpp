// Every kernel slot has a CPU kernel, a CUDA kernel and an emulated one; what is not emulated is listed, with
// the twin that is. Printed as a table.

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "core/base/error.h"
#include "core/tensor/kernel.h"
#include "tests/cuda/native_kernels.h"

namespace tessera::cuda {
namespace {

using Candidate = std::pair<std::string, std::string>;  // slot, name

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int count(const std::string& text, const std::regex& what) {
  return static_cast<int>(
      std::distance(std::sregex_iterator(text.begin(), text.end(), what), std::sregex_iterator()));
}

// What the sources of the CUDA backend register, as nvcc would see them: this build may have no nvcc.
std::set<Candidate> written() {
  static const std::regex registration(R"(\bRegister<\w+>\s+\w+\()");
  static const std::regex named(R"(\bRegister<\w+>\s+\w+\(\s*(\w+)_kernel\(\),\s*\{[^"]*"(\w+)\")");
  std::set<Candidate> found;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(TESSERA_SOURCE_DIR "/kernels/cuda")) {
    if (!entry.is_regular_file()) continue;
    const std::string text = text_of(entry.path());
    EXPECT_EQ(count(text, registration), count(text, named))
        << entry.path() << " registers a kernel in words that this test does not read";
    for (std::sregex_iterator at(text.begin(), text.end(), named); at != std::sregex_iterator(); ++at)
      found.insert({(*at)[1], (*at)[2]});
  }
  return found;
}

std::set<Candidate> registered(DeviceKind kind) {
  std::set<Candidate> found;
  for (const KernelSlot* slot : KernelSlot::all())
    for (const auto& entry : slot->entries())
      if (entry.device == kind) found.insert({slot->name(), entry.candidate});
  return found;
}

std::string names(const std::set<Candidate>& candidates, const std::string& slot) {
  std::string list;
  for (const auto& [of, name] : candidates)
    if (of == slot) list += (list.empty() ? "" : ", ") + name;
  return list.empty() ? "NONE" : list;
}

TEST(Completeness, EverySlotHasACpuACudaAndAnEmulatedKernel) {
  const std::set<Candidate> cpu = registered(DeviceKind::cpu);
  const std::set<Candidate> cuda = written();
  const std::set<Candidate> emulated = registered(DeviceKind::cuda);
  std::set<std::string> slots;
  for (const KernelSlot* slot : KernelSlot::all()) slots.insert(slot->name());
  std::printf("%-24s %-16s %-32s %s\n", "slot", "CPU", "CUDA", "emulated");
  for (const std::string& slot : slots) {
    std::printf("%-24s %-16s %-32s %s\n", slot.c_str(), names(cpu, slot).c_str(), names(cuda, slot).c_str(),
                names(emulated, slot).c_str());
    EXPECT_NE(names(cpu, slot), "NONE") << "slot " << slot << " has no CPU kernel";
    EXPECT_NE(names(cuda, slot), "NONE") << "slot " << slot << " has no CUDA kernel";
    EXPECT_NE(names(emulated, slot), "NONE") << "slot " << slot << " has no emulated kernel";
  }
}

TEST(Completeness, WhatIsNotEmulatedIsListedWithItsTwin) {
  const std::set<Candidate> cuda = written();
  const std::set<Candidate> emulated = registered(DeviceKind::cuda);
  std::set<Candidate> listed;
  std::printf("not emulated             kernel           emulated twin    compared in\n");
  for (const NativeKernel& kernel : native_kernels) {
    std::printf("%-24s %-16s %-16s %s\n", kernel.slot, kernel.candidate, kernel.twin, kernel.compared_in);
    listed.insert({kernel.slot, kernel.candidate});
    EXPECT_TRUE(cuda.contains({kernel.slot, kernel.candidate})) << kernel.candidate << " is no kernel";
    EXPECT_TRUE(emulated.contains({kernel.slot, kernel.twin})) << kernel.twin << " is not emulated";
    const std::string test = text_of(TESSERA_SOURCE_DIR "/tests/cuda/" + std::string(kernel.compared_in));
    for (const char* name : {kernel.candidate, kernel.twin})
      EXPECT_NE(test.find(fmt::format("\"{}\"", name)), std::string::npos)
          << kernel.compared_in << " does not compare '" << name << "'";
  }
  for (const Candidate& kernel : cuda)
    EXPECT_NE(emulated.contains(kernel), listed.contains(kernel))
        << "kernel '" << kernel.second << "' of slot " << kernel.first
        << ": is to be emulated, or else listed in tests/cuda/native_kernels.h with a twin that is";
  for (const Candidate& kernel : emulated)
    EXPECT_TRUE(cuda.contains(kernel)) << kernel.first << ", " << kernel.second;
}

}  // namespace
}  // namespace tessera::cuda
