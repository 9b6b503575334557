// What the writer and the reader of token files share. Internal to data/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tessera::token_file_format {

inline constexpr std::uint64_t format_version = 1;
inline constexpr std::uint64_t user_block = std::uint64_t{1} << 20;
inline constexpr std::uint64_t chunk_bytes = std::uint64_t{16} << 20;

inline std::uint64_t chunks_of(std::uint64_t bytes) {
  return (bytes + chunk_bytes - 1) / chunk_bytes;
}

// The user block's bytes: "tessera-tokens XXH3\n" and the JSON line, padded with zeros. Throws if it does not
// fit.
std::string user_block_of(const std::string& header_json, const std::string& path);

// The JSON line of a file that begins with such a block, its hash checked.
std::string header_of(std::span<const std::byte> file, const std::string& path);

}  // namespace tessera::token_file_format
