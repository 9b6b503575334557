// How processes of one node that nobody started together find each other, and notice when one has gone: a
// file.
//
// Rank 0 writes it, whole and under its name at once, with what all need to know; each rank locks a byte of
// it for as long as it lives, which the system releases whatever becomes of the process. Once all have come
// rank 0 says so in the file and removes its name. The ranks keep it open: what it then holds is where each
// of them stands, and its locks tell who is gone. A file that a dead run left has no lock of rank 0, and
// counts as none. The file system has to know locks of open files (any local one of Linux).
//
// One thread's, as its rank is. Errors are one line that names the file and what to do.
#pragma once

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/meeting_table.h"

namespace tessera {

struct MeetingPlace {
  std::filesystem::path file;
  int rank = 0;
  int ranks = 1;
  std::string program;                     // which build: all must run the same
  double patience = 60;                    // seconds until all must have come; TESSERA_TIMEOUT overrules it
  std::function<bool()> is_given_up = {};  // asked while this rank waits for others
};

class Meeting {
 public:
  explicit Meeting(MeetingPlace place);
  ~Meeting();  // a rank that ends in peace says so
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // Waits until all ranks have come, and gives what rank 0's `make_token` made (256 bytes at most),
  // which only it calls. `device`
  // names the GPU of this rank: no two may have the same. Once. Throws Error (usage) for a rank that came
  // twice, another number of ranks, another program, a shared GPU, a file that is none of ours; Error for
  // ranks that did not come in time, or went, and (requeue) where the wait is given up.
  std::string meet(const std::string& device, const std::function<std::string()>& make_token);

  int rank() const { return place_.rank; }
  int ranks() const { return place_.ranks; }

  // Once met: throws PeerFailed where a rank said that it failed, and Error where one is gone without a word.
  void look() const;
  // What the others are told of this rank; and of each rank, by rank. Texts of up to 120 bytes.
  void say_position(const std::string& text);
  std::vector<std::string> positions() const;
  // Called by a rank that failed: tells the others, and whether it is the lowest of those that failed at
  // about the same time, as all do over a mistake that all were given. Takes a third of a second.
  bool speaks_for_failed_ranks();

 private:
  std::string wait_for_all(const std::string& device, const std::function<std::string()>& make_token);
  std::string come(const std::string& device);
  std::vector<int> absent() const;
  void check_devices() const;
  void fail_if_refused() const;
  void wait_a_little() const;
  [[noreturn]] void refuse(const std::string& cause);

  MeetingPlace place_;
  std::unique_ptr<MeetingTable> table_;  // while there is one
  bool met_ = false;
  bool failed_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace tessera
