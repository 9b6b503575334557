#include "launch/limits.h"

#include <sys/resource.h>

#include <algorithm>

#include "core/base/error.h"

namespace tessera {

void raise_open_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 65536);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE,
            &limit);  // where it cannot be raised, what does not fit is named when it is opened
}

void require_open_files(std::uint64_t needed, const std::string& what) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < needed)
    fail("{} needs {} open files, and {} are allowed; raise the limit (ulimit -n)", what, needed,
         limit.rlim_cur);
}

}  // namespace tessera
