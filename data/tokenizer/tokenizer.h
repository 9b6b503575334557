// Byte-level BPE tokenizers, read from Hugging Face's tokenizer.json.
//
// Encoding gives the ids that the Python package `tokenizers` gives. What the reader does not know it refuses
// by name. A Tokenizer is immutable after loading, and its members may be called from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class Tokenizer {
 public:
  // Reads a tokenizer.json; a tokenizer_config.json beside it may name the end-of-text token.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_json_text(const std::string& text, const std::string& origin);

  // Ids of valid UTF-8. With `parse_special`, added tokens written in the text become their ids; otherwise
  // only those that are not special do. No tokens are put around the text.
  std::vector<std::uint32_t> encode(std::string_view text, bool parse_special) const;
  // The bytes of the ids, which need not be UTF-8 where a character was cut. Unknown ids throw Error.
  std::string decode(std::span<const std::uint32_t> ids) const;

  // One more than the largest id.
  std::int64_t vocab_size() const;
  std::optional<std::uint32_t> token_id(std::string_view token) const;
  std::optional<std::uint32_t> end_of_text() const;
  const std::string& json_text() const;  // the file, verbatim
  const std::string& sha256() const;

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

}  // namespace tessera
