#include "data/prepare.h"

#include <filesystem>

#include "core/base/error.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/base/philox.h"
#include "core/base/progress.h"
#include "core/base/thread_pool.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t batch_bytes = std::size_t{8} << 20;  // of text held at a time

struct Document {
  std::string text;
  const std::string* input;
  std::uint64_t line;  // where it begins
};

class Preparation {
 public:
  Preparation(const Tokenizer& tokenizer, const PrepareOptions& options)
      : tokenizer_(tokenizer), options_(options), pool_(options.threads), eos_(find_eos()) {
    const auto writer = [&](const std::string& path) {
      return std::make_unique<TokenFileWriter>(
          path, tokenizer.vocab_size(), eos_ ? std::optional(static_cast<std::int32_t>(*eos_)) : std::nullopt,
          tokenizer.json_text());
    };
    train_ = writer(options.out);
    if (options.valid_fraction > 0) valid_ = writer(valid_path(options.out));
  }

  Prepared run() {
    double total = 0;
    for (const std::string& input : options_.inputs) {
      const DocumentReader opens(input, options_.documents);  // or fails before hours of work
      total += static_cast<double>(fs::file_size(input));
    }
    Progress progress("tokenizing", total, "MB", 1e6);
    for (const std::string& input : options_.inputs) read(input, progress);
    flush();
    check_split();
    // The held-out file first: it may hold nothing, and then neither file is left.
    Prepared prepared;
    if (valid_) prepared.valid = valid_->finish();
    try {
      prepared.train = train_->finish();
    } catch (...) {
      if (valid_) io::remove_file(valid_path(options_.out));
      throw;
    }
    return prepared;
  }

 private:
  std::optional<std::uint32_t> find_eos() const {
    if (options_.eos) {
      const auto id = tokenizer_.token_id(*options_.eos);
      if (!id) fail_usage("--eos: the tokenizer has no token '{}'", *options_.eos);
      return id;
    }
    if (!tokenizer_.end_of_text())
      log::warn(
          "no end-of-text token: the tokenizer's configuration names none and --eos is not given; only "
          "boundaries are kept");
    return tokenizer_.end_of_text();
  }

  // Of few documents one of the two files may get none.
  void check_split() const {
    if (!valid_ || document_ == 0 || (held_out_ > 0 && held_out_ < document_)) return;
    fail(
        "--valid-fraction {} would leave '{}' without any of the {} document(s) read: give more text, say "
        "with "
        "--documents where one begins, or hold nothing out",
        options_.valid_fraction, held_out_ == 0 ? valid_path(options_.out) : options_.out, document_);
  }

  void read(const std::string& input, Progress& progress) {
    DocumentReader reader(input, options_.documents);
    std::uint64_t seen = 0;
    for (std::string document; reader.next(document);) {
      held_ += document.size();
      batch_.push_back({std::move(document), &input, reader.line()});
      if (held_ < batch_bytes) continue;
      flush();
      progress.advance(static_cast<double>(reader.bytes_read() - seen));
      seen = reader.bytes_read();
    }
    progress.advance(static_cast<double>(reader.bytes_read() - seen));
    if (reader.repaired() > 0)
      log::warn("'{}': {} invalid UTF-8 sequences became U+FFFD, the first at byte {}", input,
                reader.repaired(), reader.first_repaired());
  }

  std::vector<std::uint32_t> encode(const Document& document) const {
    try {
      return tokenizer_.encode(document.text, options_.parse_special);
    } catch (const Error& e) {
      fail("{}:{}: {}", *document.input, document.line, e.what());
    }
  }

  void flush() {
    std::vector<std::vector<std::uint32_t>> ids(batch_.size());
    pool_.parallel_blocks(
        static_cast<std::int64_t>(batch_.size()), 16, [&](std::int64_t begin, std::int64_t end) {
          for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            ids[i] = encode(batch_[i]);
            if (eos_) ids[i].push_back(*eos_);
          }
        });
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      // A document's fate depends on its number alone.
      const bool to_valid = valid_ && uniform(Key(0, "validation split"), document_++) <
                                          static_cast<float>(options_.valid_fraction);
      held_out_ += to_valid ? 1 : 0;
      (to_valid ? *valid_ : *train_).add(ids[i], batch_[i].text.size());
    }
    batch_.clear();
    held_ = 0;
  }

  const Tokenizer& tokenizer_;
  const PrepareOptions& options_;
  ThreadPool pool_;
  std::optional<std::uint32_t> eos_;
  std::unique_ptr<TokenFileWriter> train_, valid_;
  std::vector<Document> batch_;
  std::size_t held_ = 0;
  std::uint64_t document_ = 0, held_out_ = 0;
};

}  // namespace

std::string valid_path(const std::string& out) {
  return fs::path(out).replace_extension(".valid.h5").string();
}

Prepared prepare(const Tokenizer& tokenizer, const PrepareOptions& options) {
  return Preparation(tokenizer, options).run();
}

}  // namespace tessera
