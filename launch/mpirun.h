// Starting ranks through mpirun or srun: the command, and looking after it. Main thread only.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tessera {

struct LaunchRequest {
  int ranks = 1;
  std::filesystem::path hostfile;    // empty: this machine
  bool slurm = false;                // srun instead of mpirun
  std::vector<std::string> program;  // what each rank runs, with its arguments
};

struct LaunchFacts {  // of the machine, so that the command is a pure function
  int cores = 1;
  bool root = false;
};

struct LaunchCommand {
  std::vector<std::pair<std::string, std::string>> environment;  // set for the command
  std::vector<std::string> arguments;
  std::string text() const;  // quoted for a shell
};

LaunchFacts this_machine();

// Slots that a hostfile offers ("host slots=N" lines, one slot where N is absent; # begins a comment). Throws
// Error (exit code 2) naming the line at fault.
int hostfile_slots(const std::filesystem::path& hostfile);

LaunchCommand launch_command(const LaunchRequest& request, const LaunchFacts& facts);

// Runs the command and returns its exit code (128 + N if signal N ended it). Meanwhile SIGINT, SIGTERM and
// SIGUSR1 reach the command as SIGUSR1, which it forwards to the ranks: they save and exit with 75. A second
// SIGINT or SIGTERM ends the command and its ranks, a third kills it. Throws Error if it cannot be started.
int run_command(const LaunchCommand& command);

}  // namespace tessera
