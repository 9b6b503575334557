// Trains byte-level BPE tokenizers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera {

// Counts the pieces of a text, cut by Llama 3's pattern. One thread; counts of several merge by addition.
class PieceCounter {
 public:
  PieceCounter();
  ~PieceCounter();
  void add(std::string_view text);  // valid UTF-8
  void merge(const PieceCounter& other);
  const std::unordered_map<std::string, std::int64_t>& counts() const { return counts_; }

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::unordered_map<std::string, std::int64_t> counts_;
};

// Learns merges until the vocabulary has `vocab_size` tokens: 256 bytes, merges, then the special tokens.
// Always the most frequent pair; among equals the one with the lowest ids, so the result depends on the
// counts alone. Returns tokenizer.json's text. `progress` is told the merges learnt.
std::string train_bpe(const PieceCounter& counter, std::int64_t vocab_size,
                      const std::vector<std::string>& special_tokens,
                      const std::function<void(std::int64_t)>& progress = {});

// The text of the tokenizer_config.json beside it; the first special token ends documents.
std::string trained_tokenizer_config(const std::vector<std::string>& special_tokens);

// Whether a text is, byte for byte, what train_bpe() or trained_tokenizer_config() writes, for whatever
// vocabulary and special tokens it has. Throws Error where it is no JSON.
bool is_trained_tokenizer(std::string_view text);
bool is_trained_tokenizer_config(std::string_view text);

}  // namespace tessera
