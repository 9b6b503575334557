// Compressed bytes for the readers' tests.
#pragma once

#include <string>

namespace tessera {

std::string gzipped(const std::string& text);
std::string zstd_compressed(const std::string& text, int window_log = 0);

}  // namespace tessera
