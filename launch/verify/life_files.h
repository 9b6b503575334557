// The files of a small run: tokens to train and to validate on. Internal to launch/verify.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "launch/config/config.h"
#include "launch/verify/run.h"

namespace tessera::verify {

// A folder that goes with this object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct LifeFiles {
  std::vector<SourceSpec> train;
  std::vector<std::filesystem::path> valid;
};

// Written into `folder`. Documents end inside windows, at their borders, and reach over several; there are
// fewer windows than three steps read. As many sources as the config has, two at most. What is validated on
// does not divide by microbatches or ranks, and its last window, of one token alone, has another loss than
// the others.
LifeFiles write_life_files(const Subject& subject, const Config& config, const ParallelLayout& layout,
                           const std::filesystem::path& folder);

}  // namespace tessera::verify
