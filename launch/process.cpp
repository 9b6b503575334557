#include "launch/process.h"

#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "launch/version.h"

namespace tessera {

double seconds_since_process_start() {
  std::ifstream file("/proc/self/stat");
  std::string stat;
  if (!std::getline(file, stat)) return 0;  // no file may be opened
  // Fields are counted after the command's name, which may hold spaces: proc(5), field 22 is the start.
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9 -
         std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::string program_build() {
  return fmt::format("{} (build {:016x})", version, xxh3_64(io::Mapping("/proc/self/exe").bytes()));
}

}  // namespace tessera
