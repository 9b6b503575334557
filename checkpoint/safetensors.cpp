#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "checkpoint/safetensors_header.h"
#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/lfs.h"
#include "core/base/new_file.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t block_elements = std::size_t{1} << 18;

}  // namespace

std::int64_t SafetensorsTensor::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t dim : shape) n *= dim;
  return n;
}

struct SafetensorsFile::State {
  io::File file;
  std::uint64_t buffer = 0;  // offset of the tensors' bytes
  SafetensorsHeader header;
  std::map<std::string_view, const SafetensorsTensor*> by_name;
};

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  io::File file = io::File::open_read(path);
  const std::uint64_t size = file.size();
  const std::string origin = path.string();
  if (size < 8) fail("{}: {} bytes are too few for a safetensors file", origin, size);
  std::string start(std::min<std::uint64_t>(size, 64), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(start)));
  refuse_lfs_pointer(start, origin);
  std::array<std::byte, 8> field{};
  file.read_at(0, field);
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(field[i]);
  if (length < 2) fail("{}: the header's length is {}: not a safetensors file", origin, length);
  if (length > largest_safetensors_header)
    fail("{}: a header of {} bytes exceeds the format's limit of {}: not a safetensors file", origin, length,
         largest_safetensors_header);
  if (length > size - 8)
    fail("{}: a header of {} bytes does not fit into the file's {}: truncated", origin, length, size);
  std::string json(length, '\0');
  file.read_at(8, std::as_writable_bytes(std::span(json)));
  auto state = std::make_shared<State>(State{std::move(file), 8 + length, {}, {}});
  state->header = parse_safetensors_header(json, size - 8 - length, origin);
  for (const SafetensorsTensor& tensor : state->header.tensors) state->by_name[tensor.name] = &tensor;
  SafetensorsFile result;
  result.state_ = std::move(state);
  return result;
}

const fs::path& SafetensorsFile::path() const {
  return state_->file.path();
}
const std::vector<SafetensorsTensor>& SafetensorsFile::tensors() const {
  return state_->header.tensors;
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->header.metadata;
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? nullptr : found->second;
}

const SafetensorsTensor& SafetensorsFile::at(std::string_view name) const {
  if (const SafetensorsTensor* const tensor = find(name)) return *tensor;
  std::string have;
  for (const SafetensorsTensor& tensor : tensors()) {
    have += (have.empty() ? "" : ", ") + tensor.name;
    if (have.size() > 200) {
      have += ", …";
      break;
    }
  }
  fail("{}: no tensor '{}'; there are: {}", path().string(), name, have.empty() ? "none" : have);
}

void SafetensorsFile::read(const SafetensorsTensor& tensor, std::uint64_t offset,
                           std::span<std::byte> out) const {
  if (offset + out.size() > tensor.end - tensor.begin)
    fail("{}: tensor '{}' read past its end", path().string(), tensor.name);
  state_->file.read_at(state_->buffer + tensor.begin + offset, out);
}

void SafetensorsFile::read_floats(const SafetensorsTensor& tensor, std::int64_t first,
                                  std::span<float> out) const {
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16 && tensor.dtype != DType::f16)
    fail("{}: tensor '{}' is {}; F32, BF16 or F16 is needed", path().string(), tensor.name,
         name(tensor.dtype));
  const std::size_t width = bytes_per_element(tensor.dtype);
  if (tensor.dtype == DType::f32) {
    read(tensor, static_cast<std::uint64_t>(first) * width, std::as_writable_bytes(out));
    return;
  }
  std::vector<std::byte> raw(std::min(out.size(), block_elements) * width);
  for (std::size_t at = 0; at < out.size(); at += block_elements) {
    const std::size_t count = std::min(block_elements, out.size() - at);
    const std::span<std::byte> bytes(raw.data(), count * width);
    read(tensor, (static_cast<std::uint64_t>(first) + at) * width, bytes);
    floats_from(tensor.dtype, bytes, out.subspan(at, count));
  }
}

struct SafetensorsWriter::State {
  io::NewFile out;
  std::uint64_t buffer = 0;
  std::vector<SafetensorsTensor> tensors;
  std::map<std::string_view, const SafetensorsTensor*> by_name;
  std::uint64_t written = 0;

  const SafetensorsTensor& at(std::string_view name) const {
    const auto found = by_name.find(name);
    if (found == by_name.end()) fail("{}: no tensor '{}' was planned", out.path().string(), name);
    return *found->second;
  }
};

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<SafetensorsTensor> tensors,
                                     const std::string& writer)
    : SafetensorsWriter(io::NewFile(path), std::move(tensors), writer) {}

SafetensorsWriter::SafetensorsWriter(io::NewFile out, std::vector<SafetensorsTensor> tensors,
                                     const std::string& writer) {
  const std::string header = make_safetensors_header(tensors, out.path().string(), writer);
  state_ = std::make_unique<State>(State{std::move(out), header.size(), std::move(tensors), {}, 0});
  for (const SafetensorsTensor& tensor : state_->tensors) state_->by_name[tensor.name] = &tensor;
  state_->out.file().write(header);
}

SafetensorsWriter::~SafetensorsWriter() = default;

const std::vector<SafetensorsTensor>& SafetensorsWriter::tensors() const {
  return state_->tensors;
}

void SafetensorsWriter::write(std::string_view name, std::uint64_t offset, std::span<const std::byte> bytes) {
  const SafetensorsTensor& tensor = state_->at(name);
  if (offset + bytes.size() > tensor.end - tensor.begin)
    fail("{}: tensor '{}' written past its end", state_->out.path().string(), name);
  if (state_->out.is_stream()) {
    assert(tensor.begin + offset == state_->written);  // what is written to a stream comes in file order
    state_->out.file().write(bytes);
  } else {
    state_->out.file().write_at(state_->buffer + tensor.begin + offset, bytes);
  }
  state_->written += bytes.size();
}

void SafetensorsWriter::write_floats(std::string_view name, std::int64_t first,
                                     std::span<const float> values) {
  const SafetensorsTensor& tensor = state_->at(name);
  const std::size_t width = bytes_per_element(tensor.dtype);
  if (tensor.dtype == DType::f32) {
    write(name, static_cast<std::uint64_t>(first) * width, std::as_bytes(values));
    return;
  }
  std::vector<std::byte> raw(std::min(values.size(), block_elements) * width);
  for (std::size_t at = 0; at < values.size(); at += block_elements) {
    const std::size_t count = std::min(block_elements, values.size() - at);
    const std::span<std::byte> bytes(raw.data(), count * width);
    floats_to(tensor.dtype, values.subspan(at, count), bytes);
    write(name, (static_cast<std::uint64_t>(first) + at) * width, bytes);
  }
}

void SafetensorsWriter::finish() {
  const std::uint64_t planned = state_->tensors.empty() ? 0 : state_->tensors.back().end;
  if (state_->written != planned)
    fail("{}: {} of {} bytes of tensors were written", state_->out.path().string(), state_->written, planned);
  state_->out.finish();
}

void floats_from(DType dtype, std::span<const std::byte> bytes, std::span<float> floats) {
  if (dtype == DType::f32) {
    std::memcpy(floats.data(), bytes.data(), floats.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < floats.size(); ++i) {
    std::uint16_t raw = 0;
    std::memcpy(&raw, bytes.data() + 2 * i, 2);
    floats[i] = dtype == DType::bf16 ? std::bit_cast<float>(static_cast<std::uint32_t>(raw) << 16)
                                     : f16_to_float(raw);
  }
}

void floats_to(DType dtype, std::span<const float> floats, std::span<std::byte> bytes) {
  if (dtype == DType::f32) {
    std::memcpy(bytes.data(), floats.data(), floats.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const std::uint16_t raw = dtype == DType::bf16 ? bf16(floats[i]).raw : float_to_f16(floats[i]);
    std::memcpy(bytes.data() + 2 * i, &raw, 2);
  }
}

}  // namespace tessera
