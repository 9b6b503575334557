// A folder that goes with its scope, and a small token file in it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include "data/token_file.h"

namespace tessera {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// `documents` documents of 1 to 13 tokens each: token t of the file is t mod vocab_size.
inline TokenFileInfo write_counting_file(const std::filesystem::path& path, int documents,
                                         std::int64_t vocab_size) {
  TokenFileWriter writer(path, vocab_size, std::nullopt, "{\"a tokenizer\": 1}");
  std::uint32_t next = 0;
  for (int d = 0; d < documents; ++d) {
    std::vector<std::uint32_t> tokens;
    for (int i = 0; i <= d * 7 % 13; ++i) tokens.push_back(next++ % static_cast<std::uint32_t>(vocab_size));
    writer.add(tokens, tokens.size() * 3);
  }
  return writer.finish();
}

}  // namespace tessera
