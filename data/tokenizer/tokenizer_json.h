// The parts of a tokenizer.json, checked. Internal to data/tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/json.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pretokenizer.h"

namespace tessera {

struct TokenizerParts {
  std::unordered_map<std::string, std::uint32_t> vocabulary;  // token as written in the file to id
  std::array<std::uint32_t, 256> byte_ids{};                  // Bpe::no_id where there is none
  Bpe::Unknown unknown;
  std::vector<Bpe::Merge> merges;
  bool ignore_merges = false;  // a piece that is a token is not merged
  bool nfc = false;
  PreTokenizer pre_tokenizer;
  std::vector<AddedToken> added;
};

// Throws Error naming `origin` and the part that is unknown, malformed or inconsistent.
TokenizerParts read_tokenizer_parts(const Json& file, const std::string& origin);

}  // namespace tessera
