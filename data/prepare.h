// From text files to token files. One call; its result does not depend on the number of threads.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/token_file.h"
#include "data/tokenizer/tokenizer.h"

namespace tessera {

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string out;
  DocumentOptions documents;
  double valid_fraction = 0;       // of the documents, to OUT.valid.h5
  std::optional<std::string> eos;  // the token that ends each document; else the one that the tokenizer names
  bool parse_special = false;      // special tokens written in the text become their ids
  int threads = 1;
};

struct Prepared {
  TokenFileInfo train;
  std::optional<TokenFileInfo> valid;
};

// F.h5 to F.valid.h5.
std::string valid_path(const std::string& out);

// Tokenizes batches of documents in parallel and writes them in order. Nothing is left behind on failure.
Prepared prepare(const Tokenizer& tokenizer, const PrepareOptions& options);

}  // namespace tessera
