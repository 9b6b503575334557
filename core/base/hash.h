// Hashes of bytes: XXH3 against faults of storage, SHA-256 for identities that are published. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace tessera {

std::uint64_t xxh3_64(std::span<const std::byte> bytes);
// 32 lower-case hexadecimal digits.
std::string xxh3_128_hex(std::span<const std::byte> bytes);
// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex_of_file(const std::filesystem::path& path);

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace tessera
