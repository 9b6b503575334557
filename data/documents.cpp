#include "data/documents.h"

#include <algorithm>
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

constexpr std::size_t block_bytes = std::size_t{4} << 20;  // of text without documents
constexpr std::size_t longest = std::size_t{256} << 20;    // of a line and of a document, in bytes

// The extension before that of compression: "corpus.jsonl.gz" is JSON lines, "corpus.txt.zst" is text.
std::string kind_of(const fs::path& path) {
  const std::string last = path.extension().string();
  if (last == ".dz") return ".txt";
  const bool compressed = last == ".gz" || last == ".zst";
  return compressed ? path.stem().extension().string() : last;
}

bool is_json_lines(const fs::path& path) {
  const std::string kind = kind_of(path);
  return kind == ".jsonl" || kind == ".ndjson";
}

void check_kind(const fs::path& path) {
  if (const std::string kind = kind_of(path); !is_json_lines(path) && kind != ".txt" && !kind.empty())
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
    check_kind(p);
    if (!json_lines && o.split != "file" && o.split != "blank-line") begins.emplace(o.split, "--documents");
  }

  fs::path path;
  DocumentOptions options;
  bool json_lines;
  LineReader lines;
  std::optional<Pattern> begins;
  std::string pending;  // the line that begins the next document
  std::uint64_t line = 0;
  std::uint64_t repaired = 0, first_repaired = 0;

  bool next_json(std::string& document) {
    std::string row;
    while (lines.next(row)) {
      if (is_blank(row)) continue;
      const std::string where = fmt::format("{}:{}", path.string(), lines.number());
      const Json value = parse_json(row, where);
      if (!value.is_object()) fail("{}: the line is no JSON object", where);
      const auto text = value.find(options.text_key);
      if (text == value.end())
        fail("{}: the object has no '{}'; name the key of the text with --text-key", where, options.text_key);
      if (!text->is_string()) fail("{}: '{}' is no text", where, options.text_key);
      line = lines.number();
      document = text->get<std::string>();
      if (!document.empty()) return true;
    }
    return false;
  }

  bool is_boundary(const std::string& text) const {
    if (options.split == "blank-line") return is_blank(text);
    try {
      return begins && begins->matches(text);
    } catch (const Error& e) {
      throw Error(fmt::format("{}:{}: {}", path.string(), lines.number(), e.what()), e.code());
    }
  }

  bool next_text(std::string& document) {
    document = std::move(pending);
    pending.clear();
    const std::uint64_t start = lines.offset() - document.size();
    line = document.empty() ? 0 : lines.number();
    std::string text;
    while (lines.next(text)) {
      const bool boundary = is_boundary(text);
      if (boundary && begins && !document.empty()) {
        pending = std::move(text);
        break;
      }
      if (boundary && !begins) {
        if (document.empty()) continue;
        break;
      }
      if (document.empty()) line = lines.number();
      document += text;
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

std::uint64_t DocumentReader::line() const {
  return state_->line;
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

struct TextReader::State {
  State(const fs::path& p, const std::string& text_key) : path(p) {
    if (is_json_lines(path))
      rows.emplace(path, DocumentOptions{.text_key = text_key});
    else
      source = open_source(path);
  }

  fs::path path;
  std::optional<DocumentReader> rows;  // of JSON lines, or else:
  std::unique_ptr<ByteSource> source;
  std::string block;  // read, not yet given
  bool more = true;
  std::uint64_t lines = 0;  // before `block`
  std::uint64_t line = 1, repaired = 0;

  bool next_block(std::string& text) {
    while (more) {
      const std::size_t kept = block.size();
      block.resize(kept + block_bytes);
      const std::size_t n = source->read(std::span(block).subspan(kept));
      block.resize(kept + n);
      more = n > 0;
      const std::size_t newline = more ? block.rfind('\n') : std::string::npos;
      if (more && newline == std::string::npos) {
        if (block.size() > longest) fail("{}:{}: a line of more than 256 MiB", path.string(), lines + 1);
        continue;
      }
      const std::size_t cut = more ? newline + 1 : block.size();
      text.assign(block, 0, cut);
      block.erase(0, cut);
      line = lines + 1;
      lines += static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
      repaired += repair_utf8(text).count;
      if (!text.empty()) return true;
    }
    return false;
  }
};

TextReader::TextReader(const fs::path& path, const std::string& text_key)
    : state_(std::make_unique<State>(path, text_key)) {}
TextReader::~TextReader() = default;

bool TextReader::next(std::string& text) {
  return state_->rows ? state_->rows->next(text) : state_->next_block(text);
}

std::uint64_t TextReader::line() const {
  return state_->rows ? state_->rows->line() : state_->line;
}
std::uint64_t TextReader::bytes_read() const {
  return state_->rows ? state_->rows->bytes_read() : state_->source->position();
}
std::uint64_t TextReader::repaired() const {
  return state_->rows ? state_->rows->repaired() : state_->repaired;
}

}  // namespace tessera
