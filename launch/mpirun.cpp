#include "launch/mpirun.h"

#include <fcntl.h>
#include <hwloc.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/log.h"

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

bool is_in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access(folder.append("/").append(program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

// What the signal handler needs; the process launches one command.
volatile std::sig_atomic_t child_process = 0;
volatile std::sig_atomic_t requests = 0;

void pass_on(int number) {
  const int saved_errno = errno;
  const int seen = requests;
  if (number != SIGUSR1) requests = seen + 1;
  const int sent = number == SIGUSR1 || seen == 0 ? SIGUSR1 : seen == 1 ? SIGTERM : SIGKILL;
  if (child_process > 0) kill(static_cast<pid_t>(child_process), sent);
  errno = saved_errno;
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
    int slots = facts.cores;
    if (!request.hostfile.empty()) {
      slots = hostfile_slots(request.hostfile);
      words.insert(words.end(), {"--hostfile", request.hostfile.string()});
    }
    if (request.ranks > slots) words.emplace_back("--oversubscribe");
    // A waiting rank leaves its core to the threads of the others; each rank has a pool of threads, which
    // binding would squeeze onto one core.
    words.insert(words.end(), {"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"});
  }
  words.insert(words.end(), request.program.begin(), request.program.end());
  return command;
}

int run_command(const LaunchCommand& command) {
  const std::string& program = command.arguments.front();
  if (!is_in_path(program)) {
    fail("{} is not in PATH; {}", program,
         program == "srun" ? "run this where Slurm is installed" : "install Open MPI (Debian: openmpi-bin)");
  }
  std::vector<char*> words;
  for (const std::string& argument : command.arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);

  // Blocked until the child exists, so that no request is lost in between.
  sigset_t passed, before;
  sigemptyset(&passed);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&passed, number);
  sigprocmask(SIG_BLOCK, &passed, &before);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail("cannot start {}: {}", program, errno_text(errno));
  if (child == 0) {
    setpgid(0, 0);  // Ctrl-C on the terminal reaches us alone
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    for (const auto& [name, value] : command.environment) setenv(name.c_str(), value.c_str(), 1);
    execvp(words[0], words.data());
    _exit(127);
  }
  child_process = child;
  requests = 0;
  struct sigaction action = {};
  action.sa_handler = pass_on;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
  sigprocmask(SIG_SETMASK, &before, nullptr);

  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail("waiting for {}: {}", program, errno_text(errno));
  }
  child_process = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace tessera
