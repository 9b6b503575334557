// The files of a Hugging Face directory, which anybody may have made. Stateless; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace tessera {

// Where the file `name` of the directory is to be read: nullopt if there is none of that name. Throws Error
// if it is no regular file, or a link that leads to nothing or out of the directory. A link into the blobs of
// the hub's cache (snapshots/REVISION/NAME to ../../blobs/HASH) is taken.
std::optional<std::filesystem::path> release_file(const std::filesystem::path& dir, const std::string& name);

}  // namespace tessera
