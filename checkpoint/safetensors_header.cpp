#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr std::size_t max_tensors = 1'000'000;
constexpr std::size_t max_rank = 32;
constexpr std::size_t max_name = 4096;
constexpr std::uint64_t max_exact = std::uint64_t{1} << 53;

// For messages: a hostile name may be long or hold control characters.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  while (!out.empty() && out.size() == 80 && (static_cast<unsigned char>(out.back()) & 0xC0U) == 0x80U)
    out.pop_back();
  return text.size() > 80 ? out + "…" : out;
}

// Reads the header event by event, so that nothing but what is kept takes memory, and refuses whatever is
// not the format.
class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(SafetensorsHeader& header, const std::string& origin) : header_(header), origin_(origin) {}

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_integer(number_integer_t) override { return wrong("a negative number"); }
  bool number_float(number_float_t, const string_t& text) override { return wrong(shown(text).c_str()); }
  bool binary(binary_t&) override { return wrong("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > max_exact) return wrong("a number above 2^53");
    if (at_ == At::shape) {
      if (tensor_.shape.size() == max_rank) fail("{}: more than {} dimensions", where(), max_rank);
      tensor_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (at_ != At::offsets) return wrong("a number");
    if (offsets_ == 2) fail("{}: data_offsets has more than two numbers", where());
    (offsets_++ == 0 ? tensor_.begin : tensor_.end) = value;
    return true;
  }

  bool string(string_t& value) override {
    if (at_ == At::metadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (at_ != At::tensor || key_ != "dtype") return wrong("text");
    try {
      tensor_.dtype = dtype_from_name(value);
    } catch (const Error&) {
      fail("{}: dtype '{}' is not known", where(), shown(value));
    }
    has_dtype_ = true;
    return true;
  }

  bool start_object(std::size_t) override {
    if (at_ == At::start) {
      at_ = At::top;
    } else if (at_ == At::top && key_ == "__metadata__") {
      if (has_metadata_) fail("{}: duplicate '__metadata__'", origin_);
      has_metadata_ = true;
      at_ = At::metadata;
    } else if (at_ == At::top) {
      if (header_.tensors.size() == max_tensors) fail("{}: more than {} tensors", origin_, max_tensors);
      tensor_ = {};
      tensor_.name = key_;
      has_dtype_ = has_shape_ = has_offsets_ = false;
      offsets_ = 0;
      at_ = At::tensor;
    } else {
      return wrong("an object");
    }
    return true;
  }

  bool end_object() override {
    if (at_ == At::tensor) finish_tensor();
    at_ = at_ == At::top ? At::done : At::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (at_ != At::tensor || (key_ != "shape" && key_ != "data_offsets")) return wrong("an array");
    at_ = key_ == "shape" ? At::shape : At::offsets;
    return true;
  }

  bool end_array() override {
    if (at_ == At::offsets && offsets_ != 2) fail("{}: data_offsets needs two numbers", where());
    at_ = At::tensor;
    return true;
  }

  bool key(string_t& value) override {
    if (at_ == At::top && (value.empty() || value.size() > max_name ||
                           std::any_of(value.begin(), value.end(),
                                       [](char c) { return static_cast<unsigned char>(c) < 0x20; })))
      fail("{}: tensor name '{}' is empty, longer than {} bytes or holds control characters", origin_,
           shown(value), max_name);
    if (at_ == At::metadata && header_.metadata.contains(value))
      fail("{}: '__metadata__' has '{}' twice", origin_, shown(value));
    if (at_ == At::tensor) {
      bool* const seen = value == "dtype"          ? &has_dtype_
                         : value == "shape"        ? &has_shape_
                         : value == "data_offsets" ? &has_offsets_
                                                   : nullptr;
      if (seen == nullptr) fail("{}: unknown field '{}'", where(), shown(value));
      if (*seen) fail("{}: '{}' twice", where(), value);
      if (seen != &has_dtype_) *seen = true;
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: invalid JSON at byte {}", origin_, position);
  }

 private:
  enum class At { start, top, metadata, tensor, shape, offsets, done };

  std::string where() const {
    return at_ == At::start || at_ == At::top
               ? origin_
               : fmt::format("{}: tensor '{}'", origin_,
                             at_ == At::metadata ? std::string("__metadata__") : shown(tensor_.name));
  }

  bool wrong(const char* what) {
    if (at_ == At::start) fail("{}: begins with {} instead of an object", origin_, what);
    if (at_ == At::top) fail("{}: '{}' is {} instead of an object", origin_, shown(key_), what);
    if (at_ == At::metadata)
      fail("{}: '__metadata__' value '{}' is {} instead of text", origin_, shown(key_), what);
    fail("{}: '{}' holds {}", where(), key_, what);
  }

  void finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_)
      fail("{}: '{}' is missing", where(), !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : "data_offsets");
    if (tensor_.begin > tensor_.end)
      fail("{}: data_offsets begin {} is after end {}", where(), tensor_.begin, tensor_.end);
    std::uint64_t bits_needed = bits(tensor_.dtype);
    for (const std::int64_t dim : tensor_.shape)
      if (__builtin_mul_overflow(bits_needed, static_cast<std::uint64_t>(dim), &bits_needed))
        fail("{}: the shape's size overflows", where());
    if (bits_needed % 8 != 0) fail("{}: {} bits do not fill whole bytes", where(), bits_needed);
    if (bits_needed / 8 != tensor_.end - tensor_.begin)
      fail("{}: shape and dtype need {} bytes, data_offsets give {}", where(), bits_needed / 8,
           tensor_.end - tensor_.begin);
    header_.tensors.push_back(std::move(tensor_));
  }

  SafetensorsHeader& header_;
  const std::string& origin_;
  At at_ = At::start;
  std::string key_;
  SafetensorsTensor tensor_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

void check_duplicates(const std::vector<SafetensorsTensor>& tensors, const std::string& origin) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const SafetensorsTensor& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail("{}: tensor '{}' twice", origin, shown(*twice));
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t buffer_bytes,
                                           const std::string& origin) {
  // The library takes a NUL for the end of its input.
  if (const std::size_t nul = json.find('\0'); nul != std::string_view::npos)
    fail("{}: NUL at byte {} of the header", origin, nul);
  SafetensorsHeader header;
  Reader reader(header, origin);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  check_duplicates(header.tensors, origin);
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  std::uint64_t at = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (tensor.end > buffer_bytes)
      fail("{}: tensor '{}' ends at byte {} of {}: truncated or corrupted", origin, shown(tensor.name),
           tensor.end, buffer_bytes);
    if (tensor.begin < at) fail("{}: tensor '{}' overlaps the one before it", origin, shown(tensor.name));
    if (tensor.begin > at)
      fail("{}: {} bytes before tensor '{}' belong to none", origin, tensor.begin - at, shown(tensor.name));
    at = tensor.end;
  }
  if (at != buffer_bytes) fail("{}: the last {} bytes belong to no tensor", origin, buffer_bytes - at);
  return header;
}

std::string make_safetensors_header(std::vector<SafetensorsTensor>& tensors, const std::string& origin,
                                    const std::string& writer) {
  check_duplicates(tensors, origin);
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    if (bits(a.dtype) != bits(b.dtype)) return bits(a.dtype) > bits(b.dtype);
    return std::pair(a.dtype, std::string_view(a.name)) < std::pair(b.dtype, std::string_view(b.name));
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  if (!writer.empty()) header["__metadata__"]["written_by"] = writer;
  std::uint64_t at = 0;
  for (SafetensorsTensor& tensor : tensors) {
    tensor.begin = at;
    at += static_cast<std::uint64_t>(tensor.numel()) * bits(tensor.dtype) / 8;
    tensor.end = at;
    // push_back rather than [] because the ordered object searches linearly.
    nlohmann::ordered_json entry = nlohmann::ordered_json::object();
    entry["dtype"] = name(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {tensor.begin, tensor.end};
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(tensor.name, std::move(entry));
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > largest_safetensors_header)
    fail("{}: its header would need {} bytes; at most {} are allowed", origin, text.size(),
         largest_safetensors_header);
  std::string result(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) result[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return result + text;
}

}  // namespace tessera
