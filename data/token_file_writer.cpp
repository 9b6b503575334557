#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/hdf5_file.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/new_file.h"
#include "data/token_file.h"
#include "data/token_file_format.h"

namespace tessera {

namespace token_file_format {

std::string user_block_of(const std::string& header_json, const std::string& path) {
  std::string block = "tessera-tokens " + xxh3_128_hex(bytes_of(header_json)) + "\n" + header_json + "\n";
  if (block.size() > user_block)
    fail("'{}': too many chunks for its header; split the corpus into several files", path);
  block.resize(user_block, '\0');
  return block;
}

std::string header_of(std::span<const std::byte> file, const std::string& path) {
  constexpr std::string_view magic = "tessera-tokens ";
  const std::string_view text(reinterpret_cast<const char*>(file.data()),
                              std::min<std::size_t>(file.size(), user_block));
  if (!text.starts_with(magic)) fail("'{}' is not a token file of tessera data prepare", path);
  const std::size_t first = text.find('\n');
  const std::size_t second = first == std::string_view::npos ? first : text.find('\n', first + 1);
  if (second == std::string_view::npos) fail("'{}' is truncated: its header does not end", path);
  std::string header(text.substr(first + 1, second - first - 1));
  if (text.substr(magic.size(), first - magic.size()) != xxh3_128_hex(bytes_of(header)))
    fail("'{}': its header is damaged (hash differs); prepare the file again", path);
  return header;
}

}  // namespace token_file_format

using namespace token_file_format;

// Tokens go to a side file, which is never finished, while documents arrive: HDF5 wants sizes first.
struct TokenFileWriter::State {
  State(const std::filesystem::path& path, std::uint64_t bytes_per_token, std::string tokenizer)
      : out(path), side(path), tokenizer_json(std::move(tokenizer)), element(bytes_per_token) {
    if (out.is_stream())
      fail_usage("'{}' is a device, a pipe or open already: a token file is not written from front to back",
                 path.string());
  }

  io::NewFile out, side;
  std::string tokenizer_json;
  TokenFileInfo info;
  std::uint64_t element;
  std::vector<std::int64_t> documents{0};
  std::vector<std::byte> buffer;

  void flush() {
    side.file().write(std::span<const std::byte>(buffer));
    buffer.clear();
  }
};

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size,
                                 std::optional<std::int32_t> end_of_text, std::string tokenizer_json) {
  state_ = std::make_unique<State>(path, vocab_size <= 65536 ? 2 : 4, std::move(tokenizer_json));
  state_->info.vocab_size = vocab_size;
  state_->info.end_of_text = end_of_text;
  if (!state_->tokenizer_json.empty())
    state_->info.tokenizer_sha256 = sha256_hex(bytes_of(state_->tokenizer_json));
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::add(std::span<const std::uint32_t> tokens, std::uint64_t text_bytes) {
  State& s = *state_;
  for (const std::uint32_t token : tokens) {
    const auto* bytes =
        reinterpret_cast<const std::byte*>(&token);  // little-endian: the low bytes come first
    s.buffer.insert(s.buffer.end(), bytes, bytes + s.element);
  }
  if (s.buffer.size() >= (1U << 22)) s.flush();
  s.info.tokens += static_cast<std::int64_t>(tokens.size());
  s.info.text_bytes += text_bytes;
  ++s.info.documents;
  s.documents.push_back(s.info.tokens);
}

bool is_token_file(const std::filesystem::path& path) {
  const io::File file = io::File::open_read(path);
  std::vector<std::byte> block(std::min(file.size(), user_block));
  file.read_at(0, block);
  return !header_of(block, path.string()).empty();
}

TokenFileInfo TokenFileWriter::finish() {
  State& s = *state_;
  s.flush();
  if (s.info.tokens == 0) fail("'{}' would hold no token: the input has no text", s.out.path().string());
  const std::uint64_t counts[] = {static_cast<std::uint64_t>(s.info.tokens), s.documents.size(),
                                  s.tokenizer_json.size()};
  const Hdf5Dataset datasets[] = {{"tokens", s.element == 2 ? DType::u16 : DType::u32, {counts[0]}},
                                  {"doc_offsets", DType::i64, {counts[1]}},
                                  {"tokenizer", DType::u8, {std::max<std::uint64_t>(1, counts[2])}}};
  const std::vector<std::uint64_t> offsets = create_hdf5_file(s.out.temporary_path(), datasets, user_block);
  io::File& out = s.out.file();
  Json header = {{"version", format_version},
                 {"vocab_size", s.info.vocab_size},
                 {"text_bytes", s.info.text_bytes},
                 {"tokenizer_sha256", s.info.tokenizer_sha256}};
  if (s.info.end_of_text) header["end_of_text"] = *s.info.end_of_text;
  const auto put = [&](std::size_t index, const auto& read) {
    const std::uint64_t element = bytes_per_element(datasets[index].dtype);
    Json hashes = Json::array();
    std::vector<std::byte> chunk;
    const std::uint64_t bytes = counts[index] * element;
    for (std::uint64_t at = 0; at < bytes; at += chunk_bytes) {
      chunk.resize(std::min(chunk_bytes, bytes - at));
      read(at, std::span<std::byte>(chunk));
      hashes.push_back(xxh3_128_hex(chunk));
      out.write_at(offsets[index] + at, chunk);
    }
    header[datasets[index].name] = {
        {"offset", offsets[index]}, {"count", counts[index]}, {"element", element}, {"xxh3", hashes}};
  };
  put(0, [&](std::uint64_t at, std::span<std::byte> to) { s.side.file().read_at(at, to); });
  put(1, [&](std::uint64_t at, std::span<std::byte> to) {
    std::memcpy(to.data(), reinterpret_cast<const std::byte*>(s.documents.data()) + at, to.size());
  });
  put(2, [&](std::uint64_t at, std::span<std::byte> to) {
    std::memcpy(to.data(), s.tokenizer_json.data() + at, to.size());
  });
  header["file_bytes"] = out.size();
  out.write_at(0, bytes_of(user_block_of(header.dump(), s.out.path().string())));
  s.out.finish();
  return s.info;
}

}  // namespace tessera
