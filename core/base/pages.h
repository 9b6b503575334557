// Waiting for the pages of a mapped file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace tessera::io {

// Returns once these bytes of the mapped file `path` are in memory, telling the rank's activity of it
// (core/base/activity.h): without it nobody would hear of a disk that an access waits for. Any thread.
void wait_for_pages(const std::filesystem::path& path, std::span<const std::byte> bytes);

}  // namespace tessera::io
