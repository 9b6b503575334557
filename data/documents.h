// Text out of files: .txt and .jsonl, plain or compressed (.gz, .dz, .zst), streamed in bounded memory.
//
// A reader belongs to one thread. Every defect of a file throws Error with file and line; invalid UTF-8 in
// .txt is repaired and counted unless `strict`, in .jsonl it is an error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace tessera {

struct DocumentOptions {
  std::string split =
      "blank-line";  // of .txt: "file", "blank-line", or a pattern whose matching line begins a document
  std::string text_key = "text";  // of .jsonl
  bool strict = false;
};

class DocumentReader {
 public:
  DocumentReader(const std::filesystem::path& path, const DocumentOptions& options);
  ~DocumentReader();
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  // The next document, valid UTF-8 and not empty; false at the end.
  bool next(std::string& document);

  std::uint64_t line() const;            // where the last document begins, from 1
  std::uint64_t bytes_read() const;      // of the file on disk, for progress
  std::uint64_t repaired() const;        // invalid sequences replaced so far
  std::uint64_t first_repaired() const;  // offset of the first in the uncompressed text

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Text to count pieces of, where documents do not matter: JSON lines give the text of each row, any other
// file blocks of some megabytes that end at a line. A reader belongs to one thread and throws as above.
class TextReader {
 public:
  TextReader(const std::filesystem::path& path, const std::string& text_key);
  ~TextReader();
  TextReader(const TextReader&) = delete;
  TextReader& operator=(const TextReader&) = delete;

  // The next text, valid UTF-8 and not empty; false at the end.
  bool next(std::string& text);

  std::uint64_t line() const;  // where the last text begins, from 1
  std::uint64_t bytes_read() const;
  std::uint64_t repaired() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
