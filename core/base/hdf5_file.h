// The structure of HDF5 files: which datasets there are, and where their bytes lie.
//
// HDF5 makes files and never reads or writes payload: that goes through io::File at the offsets given here,
// so that injected faults, hashes and fsync are in one place, and HDF5's parser never meets a damaged file.
// Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"

namespace tessera {

struct Hdf5Dataset {
  std::string name;
  DType dtype = DType::f32;          // bf16 and f16 are stored as their bits, unsigned
  std::vector<std::uint64_t> shape;  // HDF5 gives a dataset of no bytes no place: have at least one element
};

// Makes `path`, replacing it, with contiguous unfilled datasets after a user block of `user_block` bytes (0
// or a power of two from 512), and returns each dataset's byte offset in the file. Throws Error.
std::vector<std::uint64_t> create_hdf5_file(const std::filesystem::path& path,
                                            std::span<const Hdf5Dataset> datasets,
                                            std::uint64_t user_block = 0);

}  // namespace tessera
