#include "checkpoint/release_path.h"

#include "core/base/error.h"

namespace tessera {

namespace fs = std::filesystem;

std::optional<fs::path> release_file(const fs::path& dir, const std::string& name) {
  fs::path path = dir / name;
  std::error_code error;
  if (fs::symlink_status(path, error).type() == fs::file_type::not_found) return std::nullopt;
  const fs::path real = fs::canonical(path, error);
  if (error) fail("'{}' cannot be followed: {}", path.string(), error.message());
  const fs::path folder = fs::canonical(dir);
  const fs::path hub = folder.parent_path().filename() == "snapshots"
                           ? folder.parent_path().parent_path() / "blobs"
                           : fs::path();
  if (real.parent_path() != folder && (hub.empty() || real.parent_path() != hub))
    fail("'{}' is a link out of the directory, to '{}'; put the file itself there", path.string(),
         real.string());
  if (!fs::is_regular_file(real)) fail("'{}' is not a regular file", path.string());
  return path;
}

}  // namespace tessera
