// Where MPI keeps the memory that the ranks of a node share, so that a killed job leaves none of it behind.
//
// Open MPI makes a file of 4 MiB a rank in /dev/shm, and removes it when the rank ends in peace. Here each
// process has a folder of its own for it, locked for as long as the process lives: whoever starts next
// removes the folders that nobody holds. And once all ranks of the node have mapped the files their names go,
// so that only a job killed while it starts leaves anything at all.
#pragma once

#include <filesystem>
#include <vector>

namespace tessera {

class MpiSegments {
 public:
  // Before MPI_Init. Where the user has chosen a folder (OMPI_MCA_btl_vader_backing_directory), or there is
  // no /dev/shm to write to, this does nothing.
  MpiSegments();
  ~MpiSegments();  // after MPI_Finalize
  MpiSegments(const MpiSegments&) = delete;
  MpiSegments& operator=(const MpiSegments&) = delete;

  // Once all ranks of the node have left MPI_Init: takes away the names.
  void hide();
  // Before MPI_Finalize, which looks for them.
  void show() const;

 private:
  std::filesystem::path folder_;  // empty: none of ours
  int lock_ = -1;
  std::vector<std::filesystem::path> hidden_;
};

}  // namespace tessera
