// What mpirun and srun say about the end of a job, without what nobody needs.
//
// Open MPI draws boxes of dashes around a rank's exit code, which mpirun itself ends with, and around
// MPI_Abort, whose cause the rank has told. Of a rank that a signal ended only they know which one it was:
// that becomes one line.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

class LaunchNotices {
 public:
  // Takes what they and the ranks wrote to standard error, in any pieces, and returns what to show of it now.
  // All that is not known passes as it came; what may be a box waits until it ends.
  std::string pass(std::string_view bytes);
  // What still waits, at the end.
  std::string rest();

 private:
  void end_line(std::string& out);

  std::string line_;    // of a line whose end has not come; shown as it comes unless it may be a notice
  bool shown_ = false;  // the beginning of this line was
  std::string box_;     // from its first line of dashes on
};

}  // namespace tessera
