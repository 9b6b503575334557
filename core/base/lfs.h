// Git LFS's pointers: what a clone without Git LFS leaves in the place of a large file. Any thread.
#pragma once

#include <string_view>

namespace tessera {

// Throws Error if `text`, the beginning of the file `origin`, is that of a pointer.
void refuse_lfs_pointer(std::string_view text, std::string_view origin);

}  // namespace tessera
