#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "data/permutation.h"

namespace tessera {
namespace {

constexpr std::uint64_t shortest_block = 4096;
constexpr std::uint64_t longest_block = std::uint64_t{1} << 20;

// Shares of a block by largest remainder; ties go to the earlier source.
std::vector<std::uint64_t> quotas(const std::vector<SourceSpec>& sources, std::uint64_t block) {
  double total = 0;
  for (const SourceSpec& source : sources) total += source.weight;
  std::vector<std::uint64_t> shares;
  std::vector<double> remainders;
  std::uint64_t given = 0;
  for (const SourceSpec& source : sources) {
    const double exact = source.weight / total * static_cast<double>(block);
    shares.push_back(static_cast<std::uint64_t>(std::floor(exact)));
    remainders.push_back(exact - std::floor(exact));
    given += shares.back();
  }
  std::vector<std::size_t> order(sources.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  for (std::size_t i = 0; given < block; ++given, i = (i + 1) % order.size()) ++shares[order[i]];
  return shares;
}

// The shortest block in which every source has a sample.
std::uint64_t block_of(const std::vector<SourceSpec>& sources) {
  for (std::uint64_t block = shortest_block;; block *= 2) {
    const std::vector<std::uint64_t> shares = quotas(sources, block);
    const auto none = std::find(shares.begin(), shares.end(), 0U);
    if (none == shares.end()) return block;
    if (block == longest_block) {
      const SourceSpec& source = sources[static_cast<std::size_t>(none - shares.begin())];
      fail_usage(
          "data.train: of weight {:g}, '{}' would get less than one in {} samples: raise it, or leave "
          "the file out",
          source.weight, source.path, longest_block);
    }
  }
}

}  // namespace

std::int64_t windows(const TokenFile& file, std::int64_t seq_len) {
  return (file.info().tokens - 1) / seq_len;
}

void require_windows(const TokenFile& file, std::int64_t seq_len) {
  if (windows(file, seq_len) == 0)
    fail("'{}' has {} tokens, fewer than one window of seq_len {} + 1", file.path().string(),
         file.info().tokens, seq_len);
}

Sample window(const TokenFile& file, std::int64_t i, std::int64_t seq_len, bool document_mask) {
  const auto length = static_cast<std::size_t>(seq_len);
  const std::int64_t begin = i * seq_len;
  Sample sample;
  sample.tokens.resize(length + 1);
  file.read(begin, sample.tokens);
  sample.targets.assign(sample.tokens.begin() + 1, sample.tokens.end());
  sample.positions.resize(length);
  std::iota(sample.positions.begin(), sample.positions.end(), 0);
  sample.doc_start.assign(length, 0);
  sample.counted = seq_len;
  if (!document_mask) return sample;
  for (const std::int64_t boundary : file.boundaries(begin, begin + seq_len + 1)) {
    const auto at = static_cast<std::size_t>(boundary - begin);
    sample.targets[at - 1] = -1;
    --sample.counted;
    for (std::size_t j = at; j < length; ++j) {
      sample.positions[j] = static_cast<std::int32_t>(j - at);
      sample.doc_start[j] = static_cast<std::int32_t>(at);
    }
  }
  return sample;
}

Dataset::Dataset(const std::vector<SourceSpec>& sources, std::int64_t seq_len, bool document_mask,
                 std::uint64_t seed)
    : block_(block_of(sources)), seq_len_(seq_len), document_mask_(document_mask), seed_(seed) {
  const std::vector<std::uint64_t> shares = quotas(sources, block_);
  std::uint64_t first = 0;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    auto file = std::make_unique<TokenFile>(sources[i].path);
    require_windows(*file, seq_len);
    const auto count = static_cast<std::uint64_t>(windows(*file, seq_len));
    if (i > 0) {
      const TokenFileInfo& a = sources_[0].file->info();
      const TokenFileInfo& b = file->info();
      if (a.vocab_size != b.vocab_size || a.tokenizer_sha256 != b.tokenizer_sha256)
        fail("'{}' and '{}' were made with different tokenizers", sources[0].path, sources[i].path);
    }
    sources_.push_back({std::move(file), count, first, shares[i]});
    first += shares[i];
  }
}

std::uint64_t Dataset::slot(std::uint64_t ordinal) const {
  const std::uint64_t inside = ordinal % block_;
  return sources_.size() == 1 ? inside : permuted(inside, block_, seed_ ^ 0x626c656e64ULL, ordinal / block_);
}

Sample Dataset::sample(std::uint64_t ordinal) const {
  const std::uint64_t at = slot(ordinal);
  std::size_t index = 0;
  while (at >= sources_[index].first + sources_[index].quota) ++index;
  const Source& source = sources_[index];
  const std::uint64_t position = ordinal / block_ * source.quota + (at - source.first);
  const std::uint64_t i = permuted(position % source.windows, source.windows,
                                   seed_ + 0x9e3779b97f4a7c15ULL * index, position / source.windows);
  return window(*source.file, static_cast<std::int64_t>(i), seq_len_, document_mask_);
}

std::vector<std::uint64_t> Dataset::positions(std::uint64_t ordinal) const {
  std::vector<std::uint64_t> counts;
  for (const Source& source : sources_) counts.push_back(ordinal / block_ * source.quota);
  for (std::uint64_t n = ordinal / block_ * block_; n < ordinal; ++n) {
    const std::uint64_t at = slot(n);
    for (std::size_t i = 0; i < sources_.size(); ++i)
      if (at >= sources_[i].first && at < sources_[i].first + sources_[i].quota) ++counts[i];
  }
  return counts;
}

}  // namespace tessera
