// The command that starts ranks through mpirun or srun. Main thread only.
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

// Ranks that run without taking turns: the hostfile's slots, else this machine's cores; with Slurm, any
// number.
int slots_for(const LaunchRequest& request, const LaunchFacts& facts);

LaunchCommand launch_command(const LaunchRequest& request, const LaunchFacts& facts);

}  // namespace tessera
