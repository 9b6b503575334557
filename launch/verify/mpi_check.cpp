#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>
#include <chrono>
#include <mutex>
#include <sstream>
#include <thread>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/new_file.h"
#include "launch/mpirun.h"
#include "launch/verify/life_files.h"
#include "launch/verify/trace.h"
#include "parallel/comm/local.h"
#include "parallel/comm/mpi.h"

extern char** environ;

namespace tessera::verify {
namespace {

namespace fs = std::filesystem;

constexpr int most_ranks = 8;
constexpr double patience = 30;  // seconds that a rank waits for another
constexpr std::chrono::seconds longest(120);

fs::path trace_of(const fs::path& folder, int rank) {
  return folder / fmt::format("rank-{}", rank);
}

// The command on its way, with a process group of its own; what it prints goes into a file.
class Child {
 public:
  Child(const LaunchCommand& command, const fs::path& output) {
    std::vector<std::string> environment;
    for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
    for (const auto& [name, value] : command.environment) environment.push_back(name + "=" + value);
    std::vector<std::string> words = command.arguments;
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, output.c_str(), O_WRONLY | O_CREAT, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    error_ = posix_spawnp(&process_, words[0].c_str(), &files, &attributes, pointers(words).data(),
                          pointers(environment).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
  }
  ~Child() {
    if (!ended_ && error_ == 0) {
      kill(-process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int error() const { return error_; }  // of the start
  // Its exit code, 128 + N for signal N; nothing if it takes too long.
  std::optional<int> wait() {
    const auto end = std::chrono::steady_clock::now() + longest;
    while (std::chrono::steady_clock::now() < end) {
      int status = 0;
      if (waitpid(process_, &status, WNOHANG) == process_) {
        ended_ = true;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return std::nullopt;
  }

 private:
  static std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> all;
    for (std::string& word : words) all.push_back(word.data());
    all.push_back(nullptr);
    return all;
  }

  pid_t process_ = 0;
  int error_ = 0;
  bool ended_ = false;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

using Traces = std::vector<std::vector<std::string>>;  // by rank

// The first line, in order, in which some rank's trace is another than the thread's.
std::optional<Fault> first_difference(const Traces& threads, const Traces& processes) {
  std::size_t longest_trace = 0;
  for (const auto& lines : threads) longest_trace = std::max(longest_trace, lines.size());
  for (std::size_t i = 0; i < longest_trace; ++i)
    for (std::size_t r = 0; r < threads.size(); ++r) {
      if (i >= threads[r].size() || (i < processes[r].size() && processes[r][i] == threads[r][i])) continue;
      const std::string& line = threads[r][i];
      const std::size_t colon = line.find(": ");
      return Fault{"MPI: " + line.substr(0, colon),
                   fmt::format("{} has other bits on rank {} than with threads as ranks",
                               line.substr(colon + 2, line.rfind(", ") - colon - 2), r)};
    }
  return std::nullopt;
}

std::string last_line(const fs::path& output) {
  const std::vector<std::string> lines = lines_of(fs::exists(output) ? io::read_text(output) : "");
  for (auto line = lines.rbegin(); line != lines.rend(); ++line)
    if (line->find("error") != std::string::npos) return *line;
  return lines.empty() ? "" : lines.back();
}

}  // namespace

int run_mpi_rank(const Subject& subject, const ParallelLayout& layout, const fs::path& folder) {
  MpiSession session;
  ProcessGroup& world = session.world();
  world.set_patience(patience);
  try {
    io::write_atomically(fs::path(trace_of(folder, world.rank())).concat(".begun"), "");
    std::string text;
    for (const std::string& line : trace(subject, layout, world)) text += line + "\n";
    io::write_atomically(trace_of(folder, world.rank()), text);
    world.barrier();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: rank %d: %s\n", world.rank(), e.what());
    std::fflush(stderr);
    MpiSession::abort(1);
  }
}

MpiCheck check_mpi(const Subject& subject, const ParallelLayout& layout, std::vector<std::string> program) {
  const int ranks = layout.mesh.ranks();
  if (ranks == 1) return {"one rank", {}};
  if (ranks > most_ranks) return {fmt::format("{} ranks are more than {}", ranks, most_ranks), {}};
  if (started_by_mpi()) return {"this is a job of MPI already", {}};
  const TemporaryFolder folder;
  program.push_back(folder.path().string());
  LaunchRequest request;
  request.ranks = ranks;
  request.program = std::move(program);
  const fs::path output = folder.path() / "output";
  Child child(launch_command(request, this_machine()), output);
  if (child.error() != 0) return {"mpirun: " + errno_text(child.error()), {}};
  Traces threads(static_cast<std::size_t>(ranks));
  run_local_ranks(ranks, [&](ProcessGroup& world) {
    threads[static_cast<std::size_t>(world.rank())] = trace(subject, layout, world);
  });
  const std::optional<int> code = child.wait();
  Traces processes;
  bool begun = false;
  for (int r = 0; r < ranks; ++r) {
    const fs::path path = trace_of(folder.path(), r);
    begun = begun || fs::exists(fs::path(path).concat(".begun"));
    processes.push_back(lines_of(fs::exists(path) ? io::read_text(path) : ""));
  }
  if (!begun) return {fmt::format("mpirun starts no rank here: {}", last_line(output)), {}};
  if (!code) return {"", Fault{"MPI", fmt::format("ranks did not end in {} s", longest.count())}};
  if (*code != 0) return {"", Fault{"MPI", fmt::format("ranks ended with {}: {}", *code, last_line(output))}};
  return {"", first_difference(threads, processes)};
}

}  // namespace tessera::verify
