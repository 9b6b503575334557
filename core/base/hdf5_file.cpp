#include "core/base/hdf5_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {
namespace {

// The system's reason of the last failure, which HDF5 keeps in its text alone ("…, errno = 28, …"); 0 if
// none.
int reason() {
  int error_number = 0;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* entry, void* found) -> herr_t {
        const std::string_view text = entry->desc == nullptr ? "" : entry->desc;
        const auto at = text.find("errno = ");
        if (at != std::string_view::npos && *static_cast<int*>(found) == 0)
          *static_cast<int*>(found) = std::atoi(entry->desc + at + 8);
        return 0;
      },
      &error_number);
  return error_number;
}

[[noreturn]] void fail_to_write(const std::filesystem::path& path) {
  const int error_number = reason();
  const std::string message =
      fmt::format("HDF5 cannot write '{}': {}", path.string(),
                  error_number == 0 ? "it does not say why" : errno_text(error_number));
  if (error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG) throw io::DiskFull(message);
  throw Error(message);
}

// A file in memory, for HDF5 to write to instead of the one that it opened: where a write fails, HDF5 1.10
// keeps the closed file half open, and its room with it, and ends the process with SIGSEGV when it exits. A
// dataset that nobody fills takes no memory.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("tessera", MFD_CLOEXEC)) {
    if (fd_ < 0) fail("cannot make a file in memory: {}", errno_text(errno));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // False where that cannot be.
  bool take_place_of(hid_t file) const {
    void* descriptor = nullptr;
    return H5Fget_vfd_handle(file, H5P_DEFAULT, &descriptor) >= 0 &&
           ::dup3(fd_, *static_cast<const int*>(descriptor), O_CLOEXEC) >= 0;
  }

  // What was written; the rest stays a hole.
  void copy_to(io::File& file) const {
    std::vector<std::byte> block(std::size_t{1} << 20);
    for (off_t at = ::lseek(fd_, 0, SEEK_DATA); at >= 0; at = ::lseek(fd_, at, SEEK_DATA)) {
      const off_t end = ::lseek(fd_, at, SEEK_HOLE);
      while (at < end) {
        const auto wanted = std::min(block.size(), static_cast<std::size_t>(end - at));
        const ssize_t n = ::pread(fd_, block.data(), wanted, at);
        if (n <= 0) fail("cannot read a file in memory: {}", errno_text(errno));
        file.write_at(static_cast<std::uint64_t>(at), std::span(block).first(static_cast<std::size_t>(n)));
        at += n;
      }
    }
    file.truncate(static_cast<std::uint64_t>(::lseek(fd_, 0, SEEK_END)));
  }

 private:
  int fd_;
};

// A limit on the size of files would hit HDF5 too.
void require_allowed(const std::filesystem::path& path, std::span<const Hdf5Dataset> datasets,
                     std::uint64_t user_block) {
  constexpr std::uint64_t structure = 4096;
  std::uint64_t bytes = user_block + structure + datasets.size() * 1024;
  for (const Hdf5Dataset& dataset : datasets) {
    std::uint64_t size = bytes_per_element(dataset.dtype);
    for (const std::uint64_t dim : dataset.shape) size *= dim;
    bytes += size;
  }
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes)
    throw io::DiskFull(
        fmt::format("cannot write '{}': it needs about {} bytes, and files may have {} (ulimit -f)",
                    path.string(), bytes, limit.rlim_cur));
}

// Closes an HDF5 identifier; one that could not be made is an Error.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::filesystem::path& path) : id_(id), close_(close) {
    if (id < 0) fail_to_write(path);
  }
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  hid_t operator*() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

hid_t hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return H5T_STD_U16LE;
    case DType::u32:
      return H5T_STD_U32LE;
    case DType::u8:
      return H5T_STD_U8LE;
    default:
      fail("HDF5 files hold no tensors of dtype {}", name(dtype));
  }
}

std::uint64_t add_dataset(const Handle& file, const Hdf5Dataset& dataset, const std::filesystem::path& path) {
  const std::vector<hsize_t> dims(dataset.shape.begin(), dataset.shape.end());
  const Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose, path);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path);
  H5Pset_layout(*properties, H5D_CONTIGUOUS);
  H5Pset_alloc_time(*properties, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(*properties, H5D_FILL_TIME_NEVER);
  const Handle made(H5Dcreate2(*file, dataset.name.c_str(), hdf5_type(dataset.dtype), *space, H5P_DEFAULT,
                               *properties, H5P_DEFAULT),
                    H5Dclose, path);
  const haddr_t offset = H5Dget_offset(*made);
  if (offset == HADDR_UNDEF) fail("HDF5 gave dataset '{}' of '{}' no place", dataset.name, path.string());
  return offset;
}

}  // namespace

std::vector<std::uint64_t> create_hdf5_file(const std::filesystem::path& path,
                                            std::span<const Hdf5Dataset> datasets, std::uint64_t user_block) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors come as ours, not as stacks on stderr
  require_allowed(path, datasets, user_block);
  io::File out = io::File::create(path);
  const MemoryFile memory;
  std::vector<std::uint64_t> offsets;
  {
    const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, path);
    H5Pset_userblock(*creation, user_block);
    const Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, *creation, H5P_DEFAULT), H5Fclose, path);
    if (!memory.take_place_of(*file)) fail_to_write(path);
    for (const Hdf5Dataset& dataset : datasets) offsets.push_back(add_dataset(file, dataset, path));
    if (H5Fflush(*file, H5F_SCOPE_GLOBAL) < 0) fail_to_write(path);
  }
  memory.copy_to(out);
  out.close();
  return offsets;
}

}  // namespace tessera
