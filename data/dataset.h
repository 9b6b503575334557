// The training stream: which window of which source is sample n. A pure function of the config, seed and n.
//
// Window i of a source is tokens [i·S, i·S + S], S + 1 of them, stride S. Sample p of a source is window π(p
// mod N) of its N, where π permutes by (seed, source, p div N). Sources blend in blocks of 4096 samples, or
// the first of 8192, 16384, … to 2^20 in which every source has one: each block gives source s its share of
// the block, rounded by largest remainder, in a shuffled order. A Dataset is const and may be used from any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/token_file.h"

namespace tessera {

// One sequence as it is trained on.
struct Sample {
  std::vector<std::int32_t> tokens;  // [S + 1]
  std::vector<std::int32_t>
      targets;  // [S]: tokens[i + 1], or -1 where it begins another document and documents are masked
  std::vector<std::int32_t>
      positions;  // [S]: i, or with masked documents the distance from the document's first token
  std::vector<std::int32_t>
      doc_start;             // [S]: 0, or with masked documents the index of the document's first token
  std::int64_t counted = 0;  // targets that are not -1
};

// Window `i` of a file, in file order; what validation walks through.
Sample window(const TokenFile& file, std::int64_t i, std::int64_t seq_len, bool document_mask);
std::int64_t windows(const TokenFile& file, std::int64_t seq_len);
// Throws Error, naming the file, if it has no window.
void require_windows(const TokenFile& file, std::int64_t seq_len);

struct SourceSpec {
  std::string path;
  double weight = 1;
};

class Dataset {
 public:
  // Opens the files. Throws Error if they disagree about vocabulary or tokenizer, one is shorter than a
  // window, or has less of the weight than blocks can give.
  Dataset(const std::vector<SourceSpec>& sources, std::int64_t seq_len, bool document_mask,
          std::uint64_t seed);

  Sample sample(std::uint64_t ordinal) const;
  // How many of samples [0, ordinal) came from each source.
  std::vector<std::uint64_t> positions(std::uint64_t ordinal) const;
  const TokenFile& file(std::size_t source) const { return *sources_[source].file; }
  std::size_t sources() const { return sources_.size(); }
  std::int64_t seq_len() const { return seq_len_; }

 private:
  struct Source {
    std::unique_ptr<TokenFile> file;
    std::uint64_t windows = 0;
    std::uint64_t first = 0, quota = 0;  // its slots of a block
  };
  std::uint64_t slot(std::uint64_t ordinal) const;

  std::vector<Source> sources_;
  std::uint64_t block_;  // samples
  std::int64_t seq_len_;
  bool document_mask_;
  std::uint64_t seed_;
};

}  // namespace tessera
