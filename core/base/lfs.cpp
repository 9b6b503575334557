#include "core/base/lfs.h"

#include "core/base/error.h"

namespace tessera {

void refuse_lfs_pointer(std::string_view text, std::string_view origin) {
  if (text.starts_with("version https://git-lfs"))
    fail("{}: a Git LFS pointer, not the file itself: fetch it with 'git lfs pull', or download it", origin);
}

}  // namespace tessera
