#include "launch/mpirun.h"

#include <hwloc.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <sstream>

#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {
namespace {

std::string shell_quoted(const std::string& word) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("_-./=:,@%+", c) != nullptr;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

LaunchFacts this_machine() {
  LaunchFacts facts;
  facts.root = geteuid() == 0;
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return facts;
  if (hwloc_topology_load(topology) == 0) {
    facts.cores = std::max(1, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE));
  }
  hwloc_topology_destroy(topology);
  return facts;
}

int hostfile_slots(const std::filesystem::path& hostfile) {
  std::istringstream text(io::read_text(hostfile, std::uint64_t{1} << 24));
  int total = 0;
  int number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    line = line.substr(0, line.find('#'));
    std::istringstream words(line);
    std::string host;
    if (!(words >> host)) continue;
    if (host.find('=') != std::string::npos) {
      fail_usage("{}:{}: a line begins with a host's name, as in 'node1 slots=8'", hostfile.string(), number);
    }
    int slots = 1;
    for (std::string word; words >> word;) {
      const std::size_t equals = word.find('=');
      const std::string key = word.substr(0, equals);
      const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
      if (key != "slots" && key != "max_slots" && key != "max-slots") {
        fail_usage("{}:{}: '{}' is not known; lines are 'node1 slots=8'", hostfile.string(), number, word);
      }
      int count = 0;
      const char* const end = value.data() + value.size();
      const auto result = std::from_chars(value.data(), end, count);
      if (result.ec != std::errc() || result.ptr != end || count < 1 || count > 1 << 20) {
        fail_usage("{}:{}: '{}' needs a number of slots, as in 'slots=8'", hostfile.string(), number, word);
      }
      if (key == "slots") slots = count;
    }
    total += slots;
  }
  if (total == 0) fail_usage("{}: no hosts; write lines such as 'node1 slots=8'", hostfile.string());
  return total;
}

std::string LaunchCommand::text() const {
  std::string out;
  for (const auto& [name, value] : environment) out += name + "=" + shell_quoted(value) + " ";
  for (const std::string& argument : arguments) out += shell_quoted(argument) + " ";
  out.pop_back();
  return out;
}

int slots_for(const LaunchRequest& request, const LaunchFacts& facts) {
  if (request.slurm) return request.ranks;
  return request.hostfile.empty() ? facts.cores : hostfile_slots(request.hostfile);
}

LaunchCommand launch_command(const LaunchRequest& request, const LaunchFacts& facts) {
  LaunchCommand command;
  std::vector<std::string>& words = command.arguments;
  const std::string ranks = std::to_string(request.ranks);
  if (request.slurm) {
    words = {"srun", "--mpi=pmix", "-n", ranks};
  } else {
    if (facts.root) {  // Open MPI refuses root without both
      command.environment = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
    }
    words = {"mpirun", "-n", ranks};
    if (!request.hostfile.empty()) words.insert(words.end(), {"--hostfile", request.hostfile.string()});
    if (request.ranks > slots_for(request, facts)) words.emplace_back("--oversubscribe");
    // A waiting rank leaves its core to the threads of the others; each rank has a pool of threads, which
    // binding would squeeze onto one core. A crash ends a rank at once, without Open MPI's handler.
    words.insert(words.end(),
                 {"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca", "opal_signal", ""});
  }
  words.insert(words.end(), request.program.begin(), request.program.end());
  return command;
}

}  // namespace tessera
