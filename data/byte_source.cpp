#include "data/byte_source.h"

#include <zlib.h>
#include <zstd.h>

#include <vector>

#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {
namespace {

constexpr std::size_t buffer_bytes = 1 << 20;

// Even of no text a compressed file has some bytes.
io::File open_compressed(const std::filesystem::path& path) {
  io::File file = io::File::open_read(path);
  if (file.size() == 0)
    fail("'{}' is truncated: it has no byte, and a compressed file has a header", path.string());
  return file;
}

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(const std::filesystem::path& path) : file_(io::File::open_read(path)) {}
  std::size_t read(std::span<char> out) override {
    const std::size_t n = file_.read_some(std::as_writable_bytes(out));
    position_ += n;
    return n;
  }
  std::uint64_t position() const override { return position_; }

 private:
  io::File file_;
  std::uint64_t position_ = 0;
};

// One or several gzip members one after another.
class GzipSource : public ByteSource {
 public:
  explicit GzipSource(const std::filesystem::path& path)
      : file_(open_compressed(path)), buffer_(buffer_bytes) {
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) fail("zlib cannot start");
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  std::size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size()) {
      if (stream_.avail_in == 0 && !refill()) {
        if (inside_) fail("'{}' is truncated: its gzip stream does not end", file_.path().string());
        return 0;
      }
      inside_ = true;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        inside_ = false;
        inflateReset(&stream_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail("'{}' is damaged near byte {}: {}", file_.path().string(), position_,
             stream_.msg == nullptr ? "gzip" : stream_.msg);
      }
    }
    return out.size() - stream_.avail_out;
  }
  std::uint64_t position() const override { return position_; }

 private:
  bool refill() {
    const std::size_t n = file_.read_some(std::as_writable_bytes(std::span(buffer_)));
    position_ += n;
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    stream_.avail_in = static_cast<uInt>(n);
    return n > 0;
  }
  io::File file_;
  std::vector<char> buffer_;
  z_stream stream_{};
  std::uint64_t position_ = 0;
  bool inside_ = false;
};

// Frames one after another; windows up to 128 MiB, zstd's own limit for streams.
class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(const std::filesystem::path& path)
      : file_(open_compressed(path)), buffer_(buffer_bytes), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) fail("zstd cannot start");
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  std::size_t read(std::span<char> out) override {
    ZSTD_outBuffer target{out.data(), out.size(), 0};
    while (target.pos == 0) {
      if (input_.pos == input_.size) {
        const std::size_t n = file_.read_some(std::as_writable_bytes(std::span(buffer_)));
        position_ += n;
        input_ = {buffer_.data(), n, 0};
        if (n == 0) {
          if (inside_) fail("'{}' is truncated: its zstd frame does not end", file_.path().string());
          return 0;
        }
      }
      const std::size_t left = ZSTD_decompressStream(stream_, &target, &input_);
      if (ZSTD_isError(left) != 0)
        fail("'{}' is damaged near byte {}: {}", file_.path().string(), position_, ZSTD_getErrorName(left));
      inside_ = left != 0;
    }
    return target.pos;
  }
  std::uint64_t position() const override { return position_; }

 private:
  io::File file_;
  std::vector<char> buffer_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  std::uint64_t position_ = 0;
  bool inside_ = false;
};

}  // namespace

std::unique_ptr<ByteSource> open_source(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".gz" || extension == ".dz") return std::make_unique<GzipSource>(path);
  if (extension == ".zst") return std::make_unique<ZstdSource>(path);
  return std::make_unique<PlainSource>(path);
}

}  // namespace tessera
