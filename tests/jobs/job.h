// Real training jobs, as processes: the program, mpirun around it, signals, injected faults, and what is
// left.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/data/temporary.h"

namespace tessera {

using Words = std::vector<std::string>;

// One process in a group of its own, working in `folder`. Its output goes to a file; killed if still there at
// the end.
class Job {
 public:
  Job(const Words& command, const std::map<std::string, std::string>& environment,
      std::filesystem::path output, const std::filesystem::path& folder = ".");
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  // The exit code, or 128 + the signal that ended it; −1 if it is not over after `seconds`.
  int wait(double seconds);
  std::string output() const;

 private:
  pid_t pid_ = -1;
  std::filesystem::path output_;
};

// A folder with a small token file and a config, and the runs of it.
class Runs {
 public:
  Runs();

  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }
  // The command for a run whose checkpoints lie in `name`: alone for 1 rank, else under mpirun.
  Words command(const std::string& name, int ranks, const Words& overrides = {}) const;
  // Runs a verb with these arguments in this folder; its exit code. The output is in `output`.
  int verb(const Words& arguments);
  // Runs a line of sh in this folder, with the program as $tessera; its exit code. The output is in `output`.
  int shell(const std::string& line);
  // Trains to the end; the exit code. The output is in `output`.
  int run(const std::string& name, int ranks, const Words& overrides = {}, const std::string& fault = "");
  std::string output;

  // All weights and moments of the newest good checkpoint, after its step, as bytes; "" if there is none.
  std::string state(const std::string& name) const;
  // Lines of `name`'s metrics that are steps.
  int logged_steps(const std::string& name) const;
  // Processes that have this folder in their command line.
  std::vector<pid_t> processes() const;

 private:
  TemporaryFolder folder_;
};

// Waits until `condition` holds; false after `seconds`.
bool eventually(double seconds, const std::function<bool()>& condition);

int count(const std::string& text, const std::string& word);

}  // namespace tessera
