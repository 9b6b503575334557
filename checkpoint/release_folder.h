// The folder of a release: under construction beside its place, then in it. Belongs to one thread.
#pragma once

#include <filesystem>

namespace tessera {

class ReleaseFolder {
 public:
  // While it is under construction it holds a file of this name.
  static constexpr const char* marker = "tessera.publishing";

  // Makes a new folder beside `to`, and removes those that dead processes left there for the same `to`.
  explicit ReleaseFolder(const std::filesystem::path& to);
  ~ReleaseFolder();  // gone unless put in its place
  ReleaseFolder(const ReleaseFolder&) = delete;
  ReleaseFolder& operator=(const ReleaseFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Puts it at `to`, at once; what stood there is removed.
  void put_in_place();

 private:
  std::filesystem::path to_, path_;
  int lock_ = -1;  // on the folder, as long as this process lives
};

}  // namespace tessera
