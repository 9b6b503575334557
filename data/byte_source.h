// The uncompressed bytes of a file, streamed. Internal to data/. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace tessera {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual std::size_t read(std::span<char> out) = 0;  // 0 at the end; throws Error on damage
  virtual std::uint64_t position() const = 0;         // bytes consumed of the file on disk
};

// By extension: .gz and .dz, .zst, else plain. A compressed file without a byte throws Error.
std::unique_ptr<ByteSource> open_source(const std::filesystem::path& path);

}  // namespace tessera
