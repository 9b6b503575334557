#include "data/token_file.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/base/activity.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/pages.h"
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

}  // namespace

struct TokenFile::State {
  std::filesystem::path path;
  io::Mapping mapping;
  TokenFileInfo info;
  Section tokens, documents, tokenizer;
  mutable std::vector<std::atomic<bool>> checked_tokens;
  mutable std::atomic<bool> checked_documents{false};

  explicit State(const std::filesystem::path& p) : path(p), mapping(p) {}

  void check_chunk(const Section& section, std::uint64_t chunk, const char* what) const {
    const std::uint64_t begin = chunk * chunk_bytes;
    const std::uint64_t size = std::min(chunk_bytes, section.bytes() - begin);
    io::wait_for_pages(path, mapping.bytes().subspan(section.offset + begin, size));
    if (xxh3_128_hex(mapping.bytes().subspan(section.offset + begin, size)) != section.hashes[chunk])
      fail("'{}': {} at byte {} are damaged (hash differs); prepare the file again", path.string(), what,
           section.offset + begin);
  }

  std::uint32_t token(std::uint64_t i) const {
    const std::byte* at = mapping.bytes().data() + tokens.offset + i * tokens.element;
    if (tokens.element == 2) {
      std::uint16_t value = 0;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
    std::uint32_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
  }

  // Two threads may both check a chunk for the first time; both find the same.
  void check_tokens(std::uint64_t first, std::uint64_t last) const {
    const std::uint64_t per_chunk = chunk_bytes / tokens.element;
    for (std::uint64_t chunk = first / per_chunk; chunk <= last / per_chunk; ++chunk) {
      if (checked_tokens[chunk].load(std::memory_order_acquire)) continue;
      check_chunk(tokens, chunk, "tokens");
      const std::uint64_t end = std::min(tokens.count, (chunk + 1) * per_chunk);
      for (std::uint64_t i = chunk * per_chunk; i < end; ++i)
        if (token(i) >= static_cast<std::uint64_t>(info.vocab_size))
          fail("'{}': token {} is {}, beyond the vocabulary of {}", path.string(), i, token(i),
               info.vocab_size);
      checked_tokens[chunk].store(true, std::memory_order_release);
    }
  }

  std::int64_t document_begin(std::uint64_t i) const {
    std::int64_t value = 0;
    std::memcpy(&value, mapping.bytes().data() + documents.offset + i * 8, sizeof value);
    return value;
  }

  void check_documents() const {
    if (checked_documents.load(std::memory_order_acquire)) return;
    for (std::uint64_t chunk = 0; chunk < documents.hashes.size(); ++chunk)
      check_chunk(documents, chunk, "documents");
    for (std::uint64_t i = 0; i + 1 < documents.count; ++i)
      if (document_begin(i) > document_begin(i + 1))
        fail("'{}': document {} ends before it begins", path.string(), i);
    if (document_begin(0) != 0 || document_begin(documents.count - 1) != info.tokens)
      fail("'{}': its documents do not cover its tokens", path.string());
    checked_documents.store(true, std::memory_order_release);
  }
};

TokenFile::TokenFile(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {
  State& s = *state_;
  const std::string name = path.string();
  const std::uint64_t size = s.mapping.bytes().size();
  const std::string header_text = header_of(s.mapping.bytes(), name);
  const Json header = parse_json(header_text, name);
  if (number(header, "version", name) != format_version)
    fail("'{}' has token file version {}; this build reads {}", name, number(header, "version", name),
         format_version);
  s.tokens = section_of(header, "tokens", size, name);
  s.documents = section_of(header, "doc_offsets", size, name);
  s.tokenizer = section_of(header, "tokenizer", size, name);
  if (number(header, "file_bytes", name) != size)
    fail("'{}' is truncated: {} bytes of {}", name, size, number(header, "file_bytes", name));
  if ((s.tokens.element != 2 && s.tokens.element != 4) || s.documents.element != 8 || s.documents.count < 1)
    fail("'{}': its header has element sizes that no token file has", name);
  if (number(header, "vocab_size", name) > std::uint64_t{1} << 31)
    fail("'{}': a vocabulary of {} is beyond what token ids reach", name, number(header, "vocab_size", name));
  s.info.tokens = static_cast<std::int64_t>(s.tokens.count);
  s.info.documents = static_cast<std::int64_t>(s.documents.count) - 1;
  s.info.vocab_size = static_cast<std::int64_t>(number(header, "vocab_size", name));
  s.info.text_bytes = number(header, "text_bytes", name);
  const auto hash = header.find("tokenizer_sha256");
  if (hash == header.end() || !hash->is_string())
    fail("'{}': its header has no valid 'tokenizer_sha256'; the file is damaged, prepare it again", name);
  s.info.tokenizer_sha256 = hash->get<std::string>();
  if (const auto eos = header.find("end_of_text"); eos != header.end() && !eos->is_null()) {
    if (const std::uint64_t id = number(header, "end_of_text", name);
        id < static_cast<std::uint64_t>(s.info.vocab_size))
      s.info.end_of_text = static_cast<std::int32_t>(id);
    else
      fail("'{}': its end-of-text token {} is beyond the vocabulary of {}", name, id, s.info.vocab_size);
  }
  s.checked_tokens = std::vector<std::atomic<bool>>(s.tokens.hashes.size());
}

TokenFile::~TokenFile() = default;
const std::filesystem::path& TokenFile::path() const {
  return state_->path;
}
const TokenFileInfo& TokenFile::info() const {
  return state_->info;
}

std::string TokenFile::tokenizer_json() const {
  const State& s = *state_;
  for (std::uint64_t chunk = 0; chunk < s.tokenizer.hashes.size(); ++chunk)
    s.check_chunk(s.tokenizer, chunk, "tokenizer");
  const auto bytes = s.mapping.bytes().subspan(s.tokenizer.offset, s.tokenizer.bytes());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const State& s = *state_;
  if (out.empty()) return;
  const auto first = static_cast<std::uint64_t>(begin);
  assert(begin >= 0 && first + out.size() <= s.tokens.count);
  io::wait_for_pages(s.path, s.mapping.bytes().subspan(s.tokens.offset + first * s.tokens.element,
                                                       out.size() * s.tokens.element));
  s.check_tokens(first, first + out.size() - 1);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int32_t>(s.token(first + i));
}

std::vector<std::int64_t> TokenFile::boundaries(std::int64_t begin, std::int64_t end) const {
  const State& s = *state_;
  const DoingScope scope(Doing::uses_storage, "read of", s.path);
  s.check_documents();
  std::uint64_t low = 0;
  std::uint64_t high = s.documents.count;
  while (low < high) {  // the first document that begins after `begin`
    const std::uint64_t middle = (low + high) / 2;
    if (s.document_begin(middle) > begin)
      high = middle;
    else
      low = middle + 1;
  }
  std::vector<std::int64_t> found;
  for (std::uint64_t i = low; i < s.documents.count && s.document_begin(i) < end; ++i)
    if (found.empty() || found.back() != s.document_begin(i)) found.push_back(s.document_begin(i));
  return found;
}

}  // namespace tessera
