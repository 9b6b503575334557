// A small token file in a folder that goes with its scope.
#pragma once

#include <filesystem>
#include <string>

#include "data/token_file.h"
#include "tests/temporary_folder.h"

namespace tessera {

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
