#include "data/token_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "data/token_file_format.h"

namespace tessera {

using namespace token_file_format;

namespace {

struct Section {
  std::uint64_t offset = 0, count = 0, element = 1;
  std::vector<std::string> hashes;
  std::uint64_t bytes() const { return count * element; }
};

std::uint64_t number(const Json& object, const char* key, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned())
    fail("'{}': its header has no valid '{}'; the file is damaged, prepare it again", path, key);
  return found->get<std::uint64_t>();
}

Section section_of(const Json& header, const char* name, std::uint64_t file_size, const std::string& path) {
  const auto found = header.find(name);
  if (found == header.end() || !found->is_object()) fail("'{}': its header lists no '{}'", path, name);
  Section section{
      number(*found, "offset", path), number(*found, "count", path), number(*found, "element", path), {}};
  const auto hashes = found->find("xxh3");
  const bool sane = section.count <= file_size && section.element >= 1 && section.element <= 8 &&
                    section.offset <= file_size && section.bytes() <= file_size - section.offset &&
                    hashes != found->end() && hashes->is_array() &&
                    hashes->size() == chunks_of(section.bytes());
  if (!sane) fail("'{}' is truncated or damaged: its '{}' does not fit in {} bytes", path, name, file_size);
  for (const Json& hash : *hashes) {
    if (!hash.is_string()) fail("'{}': its header has a hash that is no text", path);
    section.hashes.push_back(hash.get<std::string>());
  }
  return section;
}

// What names one content of one file: another value asks for another look at what was checked.
struct Stamp {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  std::int64_t modified = 0, changed = 0;  // nanoseconds

  explicit Stamp(const struct stat& info)
      : device(info.st_dev),
        inode(info.st_ino),
        size(info.st_size),
        modified(nanoseconds(info.st_mtim)),
        changed(nanoseconds(info.st_ctim)) {}
  bool operator==(const Stamp&) const = default;

 private:
  static std::int64_t nanoseconds(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }
};

Stamp stamp_of(const io::File& file) {
  struct stat info {};
  if (::fstat(file.descriptor(), &info) != 0)
    fail("cannot stat '{}': {}", file.path().string(), errno_text(errno));
  return Stamp(info);
}

// The header of a file, read and found sane.
struct Table {
  std::string text;
  TokenFileInfo info;
  Section tokens, documents, tokenizer;
};

std::string read_header(const io::File& file, std::uint64_t size) {
  std::vector<std::byte> block(std::min(size, user_block));
  file.read_at(0, block);
  return header_of(block, file.path().string());
}

Table read_table(const io::File& file, std::uint64_t size) {
  const std::string name = file.path().string();
  Table table;
  table.text = read_header(file, size);
  const Json header = parse_json(table.text, name);
  if (number(header, "version", name) != format_version)
    fail("'{}' has token file version {}; this build reads {}", name, number(header, "version", name),
         format_version);
  table.tokens = section_of(header, "tokens", size, name);
  table.documents = section_of(header, "doc_offsets", size, name);
  table.tokenizer = section_of(header, "tokenizer", size, name);
  if (number(header, "file_bytes", name) != size)
    fail("'{}' is truncated: {} bytes of {}", name, size, number(header, "file_bytes", name));
  if ((table.tokens.element != 2 && table.tokens.element != 4) || table.documents.element != 8 ||
      table.documents.count < 1)
    fail("'{}': its header has element sizes that no token file has", name);
  if (number(header, "vocab_size", name) > std::uint64_t{1} << 31)
    fail("'{}': a vocabulary of {} is beyond what token ids reach", name, number(header, "vocab_size", name));
  table.info.tokens = static_cast<std::int64_t>(table.tokens.count);
  table.info.documents = static_cast<std::int64_t>(table.documents.count) - 1;
  table.info.vocab_size = static_cast<std::int64_t>(number(header, "vocab_size", name));
  table.info.text_bytes = number(header, "text_bytes", name);
  const auto hash = header.find("tokenizer_sha256");
  if (hash == header.end() || !hash->is_string())
    fail("'{}': its header has no valid 'tokenizer_sha256'; the file is damaged, prepare it again", name);
  table.info.tokenizer_sha256 = hash->get<std::string>();
  if (const auto eos = header.find("end_of_text"); eos != header.end() && !eos->is_null()) {
    if (const std::uint64_t id = number(header, "end_of_text", name);
        id < static_cast<std::uint64_t>(table.info.vocab_size))
      table.info.end_of_text = static_cast<std::int32_t>(id);
    else
      fail("'{}': its end-of-text token {} is beyond the vocabulary of {}", name, id, table.info.vocab_size);
  }
  return table;
}

// Of the tokens, their documents and their tokenizer; not of where they lie in the file.
std::string content_hash_of(const Table& table) {
  const Json content = {
      {"vocab_size", table.info.vocab_size}, {"tokenizer_sha256", table.info.tokenizer_sha256},
      {"tokens", table.tokens.count},        {"element", table.tokens.element},
      {"token_hashes", table.tokens.hashes}, {"document_hashes", table.documents.hashes}};
  return xxh3_128_hex(bytes_of(content.dump()));
}

// An open file, as its stamp says it was, and what of it has been checked.
class Content {
 public:
  Content(io::File file, const Stamp& stamp, const Table& table)
      : file_(std::move(file)), stamp_(stamp), table_(table), checked_tokens_(table.tokens.hashes.size()) {}

  // Whether the path still leads to this content. A file that was removed lives on in the descriptor.
  bool is_current() const {
    struct stat info {};
    if (::stat(file_.path().c_str(), &info) == 0) return Stamp(info) == stamp_;
    Stamp open = stamp_of(file_);
    open.changed = stamp_.changed;  // removing a name counts as a change
    return open == stamp_;
  }

  std::vector<std::byte> section(const Section& section, const char* what) const {
    std::vector<std::byte> all;
    all.reserve(section.bytes());
    for (std::uint64_t chunk = 0; chunk < section.hashes.size(); ++chunk) {
      const std::vector<std::byte> bytes = read_chunk(section, chunk, what);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

  // Two threads may both check a chunk for the first time; both find the same.
  void read_tokens(std::uint64_t first, std::span<std::int32_t> out) const {
    const std::uint64_t per_chunk = chunk_bytes / table_.tokens.element;
    const std::uint64_t last = first + out.size() - 1;
    for (std::uint64_t chunk = first / per_chunk; chunk <= last / per_chunk; ++chunk)
      if (!checked_tokens_[chunk].load(std::memory_order_acquire)) {
        check_tokens(chunk);
        checked_tokens_[chunk].store(true, std::memory_order_release);
      }
    std::vector<std::byte> bytes(out.size() * table_.tokens.element);
    file_.read_at(table_.tokens.offset + first * table_.tokens.element, bytes);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int32_t>(token(bytes, i));
  }

  std::vector<std::int64_t> boundaries(std::int64_t begin, std::int64_t end) const {
    std::call_once(documents_once_, [this] { check_documents(); });
    std::vector<std::int64_t> found;
    auto block =
        static_cast<std::uint64_t>(std::upper_bound(document_index_.begin(), document_index_.end(), begin) -
                                   document_index_.begin() - 1);
    std::vector<std::int64_t> begins;
    for (; block < document_index_.size() && document_index_[block] < end; ++block) {
      begins.resize(std::min(index_step, table_.documents.count - block * index_step));
      file_.read_at(table_.documents.offset + block * index_step * sizeof(std::int64_t),
                    std::as_writable_bytes(std::span(begins)));
      for (const std::int64_t at : begins)
        if (at > begin && at < end && (found.empty() || found.back() < at)) found.push_back(at);
    }
    return found;
  }

 private:
  static constexpr std::uint64_t index_step = 512;

  std::uint32_t token(std::span<const std::byte> bytes, std::size_t i) const {
    if (table_.tokens.element == 2) {
      std::uint16_t value = 0;
      std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
      return value;
    }
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
    return value;
  }

  std::vector<std::byte> read_chunk(const Section& section, std::uint64_t chunk, const char* what) const {
    const std::uint64_t begin = chunk * chunk_bytes;
    std::vector<std::byte> bytes(std::min(chunk_bytes, section.bytes() - begin));
    file_.read_at(section.offset + begin, bytes);
    if (xxh3_128_hex(bytes) != section.hashes[chunk])
      fail("'{}': {} at byte {} are damaged (hash differs); prepare the file again", file_.path().string(),
           what, section.offset + begin);
    return bytes;
  }

  void check_tokens(std::uint64_t chunk) const {
    const std::vector<std::byte> bytes = read_chunk(table_.tokens, chunk, "tokens");
    const std::uint64_t first = chunk * chunk_bytes / table_.tokens.element;
    for (std::uint64_t i = 0; i < bytes.size() / table_.tokens.element; ++i)
      if (token(bytes, i) >= static_cast<std::uint64_t>(table_.info.vocab_size))
        fail("'{}': token {} is {}, beyond the vocabulary of {}", file_.path().string(), first + i,
             token(bytes, i), table_.info.vocab_size);
  }

  // Keeps every index_step-th, so that a search reads one short block.
  void check_documents() const {
    const std::string name = file_.path().string();
    document_index_.clear();
    std::int64_t previous = 0;
    std::uint64_t i = 0;
    for (std::uint64_t chunk = 0; chunk < table_.documents.hashes.size(); ++chunk) {
      const std::vector<std::byte> bytes = read_chunk(table_.documents, chunk, "documents");
      for (std::size_t at = 0; at < bytes.size(); at += sizeof previous, ++i) {
        std::int64_t begin = 0;
        std::memcpy(&begin, bytes.data() + at, sizeof begin);
        if (i > 0 && begin < previous) fail("'{}': document {} ends before it begins", name, i - 1);
        if (i == 0 && begin != 0) fail("'{}': its documents do not cover its tokens", name);
        if (i % index_step == 0) document_index_.push_back(begin);
        previous = begin;
      }
    }
    if (previous != table_.info.tokens) fail("'{}': its documents do not cover its tokens", name);
  }

  io::File file_;
  Stamp stamp_;
  const Table& table_;
  mutable std::vector<std::atomic<bool>> checked_tokens_;
  mutable std::once_flag documents_once_;
  mutable std::vector<std::int64_t> document_index_;
};

}  // namespace

struct TokenFile::State {
  explicit State(const std::filesystem::path& p) : path(p) {
    io::File file = io::File::open_read(path);
    const Stamp stamp = stamp_of(file);
    table = read_table(file, static_cast<std::uint64_t>(stamp.size));
    content = std::make_shared<const Content>(std::move(file), stamp, table);
  }

  std::filesystem::path path;
  Table table;
  mutable std::mutex mutex;
  mutable std::shared_ptr<const Content> content;

  // What `read` gives of the content, read while the file did not change.
  template <class Read>
  auto reading(Read read) const {
    while (true) {
      const std::shared_ptr<const Content> now = current();
      try {
        auto result = read(*now);
        if (now->is_current()) return result;
      } catch (const Error&) {
        if (now->is_current()) throw;
      }
      renew(now);
    }
  }

 private:
  std::shared_ptr<const Content> current() const {
    const std::lock_guard lock(mutex);
    return content;
  }

  // Looks at the file again: the same header means that it was touched, copied or moved, and every chunk is
  // checked anew; another one, that a run would go on with other tokens.
  void renew(const std::shared_ptr<const Content>& old) const {
    const std::lock_guard lock(mutex);
    if (content != old) return;  // another thread did
    try {
      io::File file = io::File::open_read(path);
      const Stamp stamp = stamp_of(file);
      const auto size = static_cast<std::uint64_t>(stamp.size);
      if (read_header(file, size) != table.text) fail("'{}' holds other tokens", path.string());
      read_table(file, size);  // it may have been cut behind its header
      content = std::make_shared<const Content>(std::move(file), stamp, table);
    } catch (const Error& e) {
      fail("{}: the token file was changed while it was read; put back the one that reading began with",
           e.what());
    }
  }
};

TokenFile::TokenFile(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
TokenFile::~TokenFile() = default;

const std::filesystem::path& TokenFile::path() const {
  return state_->path;
}
const TokenFileInfo& TokenFile::info() const {
  return state_->table.info;
}
std::string TokenFile::content_hash() const {
  return content_hash_of(state_->table);
}

std::string TokenFile::tokenizer_json() const {
  const std::vector<std::byte> bytes = state_->reading(
      [this](const Content& content) { return content.section(state_->table.tokenizer, "tokenizer"); });
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  if (out.empty()) return;
  const auto first = static_cast<std::uint64_t>(begin);
  assert(begin >= 0 && first + out.size() <= state_->table.tokens.count);
  state_->reading([&](const Content& content) {
    content.read_tokens(first, out);
    return true;
  });
}

std::vector<std::int64_t> TokenFile::boundaries(std::int64_t begin, std::int64_t end) const {
  return state_->reading([&](const Content& content) { return content.boundaries(begin, end); });
}

}  // namespace tessera
