#include "data/documents.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/error.h"
#include "core/base/json.h"
#include "data/byte_source.h"
#include "data/pattern.h"
#include "data/text.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t longest = std::size_t{256} << 20;  // of a line and of a document, in bytes

// "corpus.jsonl.gz" is JSON lines, "corpus.txt.zst" is text.
bool is_json_lines(fs::path path) {
  const std::string last = path.extension().string();
  if (last == ".gz" || last == ".dz" || last == ".zst") path = path.stem();
  const std::string kind = path.extension().string();
  if (kind == ".jsonl" || kind == ".ndjson") return true;
  if (kind == ".txt" || kind.empty() || last == ".dz") return false;
  fail_usage("'{}': the kind of '{}' is not known; there are: .txt, .jsonl, each also .gz or .zst",
             path.string(), kind);
}

// Some editors begin a file with it; it is no text.
constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

class LineReader {
 public:
  explicit LineReader(const fs::path& path)
      : path_(path), source_(open_source(path)), buffer_(1 << 20, '\0') {}

  // The next line with its newline; false at the end.
  bool next(std::string& line) {
    line.clear();
    while (true) {
      if (at_ == filled_) {
        filled_ = source_->read(std::span(buffer_.data(), buffer_.size()));
        at_ = 0;
        if (filled_ == 0) return !line.empty() && ++number_ > 0;
      }
      if (offset_ == 0 && std::string_view(buffer_.data(), filled_).starts_with(byte_order_mark))
        offset_ = at_ = byte_order_mark.size();
      const std::size_t newline = std::string_view(buffer_.data(), filled_).find('\n', at_);
      const std::size_t end = newline == std::string_view::npos ? filled_ : newline + 1;
      line.append(buffer_, at_, end - at_);
      offset_ += end - at_;
      at_ = end;
      if (line.size() > longest) fail("{}:{}: a line of more than 256 MiB", path_.string(), number_ + 1);
      if (newline != std::string_view::npos) {
        ++number_;
        return true;
      }
    }
  }
  std::uint64_t number() const { return number_; }
  std::uint64_t offset() const { return offset_; }
  const ByteSource& source() const { return *source_; }

 private:
  fs::path path_;
  std::unique_ptr<ByteSource> source_;
  std::string buffer_;
  std::size_t at_ = 0, filled_ = 0;
  std::uint64_t number_ = 0, offset_ = 0;
};

bool is_blank(const std::string& line) {
  return line.find_first_not_of(" \t\r\n") == std::string::npos;
}

}  // namespace

struct DocumentReader::State {
  State(const fs::path& p, const DocumentOptions& o)
      : path(p), options(o), json_lines(is_json_lines(p)), lines(p) {
    if (!json_lines && o.split != "file" && o.split != "blank-line") begins.emplace(o.split, "--documents");
  }

  fs::path path;
  DocumentOptions options;
  bool json_lines;
  LineReader lines;
  std::optional<Pattern> begins;
  std::string pending;  // the line that begins the next document
  std::uint64_t repaired = 0, first_repaired = 0;

  bool next_json(std::string& document) {
    std::string line;
    while (lines.next(line)) {
      if (is_blank(line)) continue;
      const std::string where = fmt::format("{}:{}", path.string(), lines.number());
      const Json value = parse_json(line, where);
      if (!value.is_object()) fail("{}: the line is no JSON object", where);
      const auto text = value.find(options.text_key);
      if (text == value.end())
        fail("{}: the object has no '{}'; name the key of the text with --text-key", where, options.text_key);
      if (!text->is_string()) fail("{}: '{}' is no text", where, options.text_key);
      document = text->get<std::string>();
      if (!document.empty()) return true;
    }
    return false;
  }

  bool next_text(std::string& document) {
    document = std::move(pending);
    pending.clear();
    const std::uint64_t start = lines.offset() - document.size();
    std::string line;
    while (lines.next(line)) {
      const bool boundary = options.split == "blank-line" ? is_blank(line) : begins && begins->matches(line);
      if (boundary && begins && !document.empty()) {
        pending = std::move(line);
        break;
      }
      if (boundary && !begins) {
        if (document.empty()) continue;
        break;
      }
      document += line;
      if (document.size() > longest)
        fail("{}:{}: a document of more than 256 MiB; split it with --documents", path.string(),
             lines.number());
    }
    if (document.empty()) return false;
    check_utf8(document, start);
    return true;
  }

  void check_utf8(std::string& document, std::uint64_t start) {
    const Utf8Repair repair = repair_utf8(document);
    if (repair.count == 0) return;
    if (options.strict)
      fail("'{}': byte {} is not valid UTF-8 (--strict)", path.string(), start + repair.first);
    if (repaired == 0) first_repaired = start + repair.first;
    repaired += repair.count;
  }
};

DocumentReader::DocumentReader(const fs::path& path, const DocumentOptions& options)
    : state_(std::make_unique<State>(path, options)) {}
DocumentReader::~DocumentReader() = default;

bool DocumentReader::next(std::string& document) {
  return state_->json_lines ? state_->next_json(document) : state_->next_text(document);
}

std::uint64_t DocumentReader::bytes_read() const {
  return state_->lines.source().position();
}
std::uint64_t DocumentReader::repaired() const {
  return state_->repaired;
}
std::uint64_t DocumentReader::first_repaired() const {
  return state_->first_repaired;
}

}  // namespace tessera
