// Token files: a tokenized corpus in HDF5, read by training with `pread` and checked on first touch.
//
// Layout: a user block of 1 MiB before the HDF5 superblock, then contiguous datasets `tokens` (u16 or u32),
// `doc_offsets` (i64: where each document begins, and the end) and `tokenizer` (u8: tokenizer.json verbatim).
// The user block is a line of JSON: sizes, byte offsets, vocabulary, end-of-text id, the tokenizer's SHA-256,
// UTF-8 bytes of the text, an XXH3 of every 16 MiB of each dataset and of the HDF5 structure between them;
// its own XXH3 stands on the line before. Reading trusts the user block alone and never runs HDF5's parser.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tessera {

struct TokenFileInfo {
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::int64_t vocab_size = 0;
  std::optional<std::int32_t> end_of_text;  // ends each document, where there is one
  std::string tokenizer_sha256;
  std::uint64_t text_bytes = 0;  // UTF-8 bytes of the text before tokenization
};

// Writes a token file as documents arrive. Belongs to one thread. Nothing is left behind, and what stood at
// the path still does, unless finish() returned.
class TokenFileWriter {
 public:
  // `tokenizer_json` may be empty. Tokens are stored as u16 where the vocabulary allows.
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size,
                  std::optional<std::int32_t> end_of_text, std::string tokenizer_json);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  // One document, its end-of-text token included; `text_bytes` is the size of its text.
  void add(std::span<const std::uint32_t> tokens, std::uint64_t text_bytes);
  TokenFileInfo finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether the file begins as finish() wrote it: its user block, hash and all. Throws Error if it cannot be
// read.
bool is_token_file(const std::filesystem::path& path);

// An open token file. Members are const and may be called from any thread.
//
// Every read looks at the file's inode, size and times. Where they changed, what was checked is checked
// again: a file that was only touched or copied is read on; one that was cut, rewritten or replaced by other
// tokens throws Error naming it, before any of its tokens are given. A file that was removed stays readable.
class TokenFile {
 public:
  explicit TokenFile(const std::filesystem::path& path);
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  const std::filesystem::path& path() const;
  const TokenFileInfo& info() const;
  std::string tokenizer_json() const;  // "" where there is none
  // Names what training sees of the file, wherever it lies: its tokens, documents, vocabulary and tokenizer.
  std::string content_hash() const;

  // Tokens [begin, begin + out.size()). Checks the chunks it touches for the first time: their hash, and that
  // ids are within the vocabulary; throws Error naming file and place.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  // Where documents begin within (begin, end), ascending.
  std::vector<std::int64_t> boundaries(std::int64_t begin, std::int64_t end) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
