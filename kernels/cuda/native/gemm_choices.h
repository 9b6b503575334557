// Choices of algorithms as text, and the file that keeps them between runs.
//
// The file is JSON: {"format": 1, "choices": {NAME: {"algorithm": 128 hex digits, "description": …,
// "microseconds": …}}}. It is a cache: whatever is wrong with it costs a warning, never a run.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "core/base/io.h"

namespace tessera::cuda {

struct GemmChoice {
  std::array<std::uint64_t, 8> algorithm{};  // opaque: as the library gave it
  std::string description;                   // for people
  double microseconds = 0;                   // as timed; 0: it was not
};

// One entry of the file. The second throws Error, which names the entry, on a text that is none.
std::string to_text(const GemmChoice& choice);
GemmChoice choice_from_text(const std::string& text, const std::string& name);

class ChoiceFile {
 public:
  // TESSERA_GEMM_CACHE, or its default; empty where there is neither that nor a home.
  static std::filesystem::path default_path();

  // An empty path keeps nothing.
  explicit ChoiceFile(std::filesystem::path path) : path_(std::move(path)) {}

  // Keeps other ranks of the node from the file: the first times a shape, the rest read what it found. Waits
  // up to 20 seconds, so that ranks that wait for each other elsewhere cannot stand still here; afterwards,
  // and where no lock can be made, held() is false and add() does nothing.
  class Lock {
   public:
    explicit Lock(ChoiceFile& file);
    bool held() const { return file_ != nullptr; }

   private:
    std::unique_ptr<io::File> file_;  // closing it gives the lock back
  };

  std::map<std::string, GemmChoice> read();
  void add(const Lock& lock, const std::string& name, const GemmChoice& choice);

 private:
  void warn_once(const std::string& reason);
  std::filesystem::path path_;
  bool warned_ = false;
};

}  // namespace tessera::cuda
