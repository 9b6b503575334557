// safetensors: named tensors in one file, or in the sharded files of a release with their index.
//
// A file is a u64 header length, a JSON header and the tensors' bytes, row-major, without holes. The reader
// trusts nothing: opening checks the whole header (format, names, shapes, ranges) before any byte is
// interpreted, memory is bounded by the header's size, and a tensor's name is never used as a path. Data is
// read with pread, so a file that shrinks afterwards is an error and not a signal. Every failure throws Error
// with path, tensor and defect. Readers are cheap to copy and may be used from any thread; a writer belongs
// to one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/new_file.h"

namespace tessera {

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  // Bytes [begin, end) of the file's buffer; a writer computes them.
  std::uint64_t begin = 0, end = 0;

  std::int64_t numel() const;
};

// One open file.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<SafetensorsTensor>& tensors() const;       // in order of their bytes
  const SafetensorsTensor* find(std::string_view name) const;  // nullptr if absent
  const SafetensorsTensor& at(std::string_view name) const;    // throws Error if absent
  const std::map<std::string, std::string>& metadata() const;  // of "__metadata__"

  // Bytes [offset, offset + out.size()) of the tensor as stored.
  void read(const SafetensorsTensor& tensor, std::uint64_t offset, std::span<std::byte> out) const;
  // Elements [first, first + out.size()) as fp32; the tensor is F32, BF16 or F16.
  void read_floats(const SafetensorsTensor& tensor, std::int64_t first, std::span<float> out) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// The weights of a release directory: model.safetensors, or the shards that model.safetensors.index.json
// lists. Shards lie in the directory itself (a name with a separator is refused; a link may point only within
// it or into the blobs of the hub's cache), hold exactly the tensors that the index says, and no tensor
// twice.
class SafetensorsRelease {
 public:
  static SafetensorsRelease open(const std::filesystem::path& dir);

  struct Located {
    SafetensorsFile file;
    const SafetensorsTensor* tensor;
  };
  std::vector<std::string> names() const;            // sorted
  const Located* find(std::string_view name) const;  // nullptr if absent
  const std::filesystem::path& path() const { return dir_; }

 private:
  std::filesystem::path dir_;
  std::map<std::string, Located, std::less<>> tensors_;
};

// Writes one file: its header at once, then tensors in any order, or in file order where the path is a
// device, a pipe or standard output. Elsewhere nothing changes at `path` before finish().
class SafetensorsWriter {
 public:
  // `tensors` need name, dtype and shape. Sorted as the format's own writers do: by descending alignment of
  // the dtype, then by name.
  // `writer` is kept in the metadata ("written_by"), for those who must know their own files again; "" for
  // none.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                    const std::string& writer = "");
  SafetensorsWriter(io::NewFile out, std::vector<SafetensorsTensor> tensors, const std::string& writer);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  const std::vector<SafetensorsTensor>& tensors() const;  // in file order, with ranges
  void write(std::string_view name, std::uint64_t offset, std::span<const std::byte> bytes);
  // Elements from `first`, rounded to the tensor's dtype (F32, BF16 or F16).
  void write_floats(std::string_view name, std::int64_t first, std::span<const float> values);
  void finish();  // on disk and in place afterwards

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A release's files for these tensors: cut greedily in the given order so that no file's tensors exceed
// `max_shard_bytes` (a larger tensor has a file of its own).
struct SafetensorsShard {
  std::string file;  // "model.safetensors" or "model-00001-of-00002.safetensors"
  std::vector<SafetensorsTensor> tensors;
};
std::vector<SafetensorsShard> plan_shards(std::vector<SafetensorsTensor> tensors,
                                          std::uint64_t max_shard_bytes);
// Text of model.safetensors.index.json.
std::string index_text(const std::vector<SafetensorsShard>& shards);

// fp32 to and from the floating types that files hold; `bytes` and `floats` have the same number of elements.
void floats_from(DType dtype, std::span<const std::byte> bytes, std::span<float> floats);
void floats_to(DType dtype, std::span<const float> floats, std::span<std::byte> bytes);

}  // namespace tessera
