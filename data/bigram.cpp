#include "data/bigram.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/base/error.h"

namespace tessera {
namespace {

// Calls visit(previous, token) for neighbours within documents.
template <class Visit>
void for_each_pair(const TokenFile& file, Visit visit) {
  constexpr std::int64_t block = 1 << 20;
  const std::int64_t total = file.info().tokens;
  std::vector<std::int32_t> tokens;
  for (std::int64_t begin = 0; begin + 1 < total; begin += block) {
    const std::int64_t end = std::min(total, begin + block + 1);  // one token of overlap
    tokens.resize(static_cast<std::size_t>(end - begin));
    file.read(begin, tokens);
    const auto boundaries = file.boundaries(begin, end);
    auto boundary = boundaries.begin();
    for (std::size_t i = 1; i < tokens.size(); ++i) {
      while (boundary != boundaries.end() && *boundary < begin + static_cast<std::int64_t>(i)) ++boundary;
      const bool begins = boundary != boundaries.end() && *boundary == begin + static_cast<std::int64_t>(i);
      if (!begins) visit(tokens[i - 1], tokens[i]);
    }
  }
}

std::uint64_t key(std::int32_t a, std::int32_t b) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) << 32 | static_cast<std::uint32_t>(b);
}

}  // namespace

double bigram_loss(const TokenFile& train, const TokenFile& valid) {
  constexpr double smoothing = 4;
  if (train.info().vocab_size != valid.info().vocab_size ||
      train.info().tokenizer_sha256 != valid.info().tokenizer_sha256)
    fail("'{}' and '{}' were made with different tokenizers", train.path().string(), valid.path().string());
  const auto vocab = static_cast<std::size_t>(train.info().vocab_size);
  std::vector<double> before(vocab);
  std::vector<double> after(vocab);
  std::unordered_map<std::uint64_t, double> pairs;
  double total = 0;
  for_each_pair(train, [&](std::int32_t a, std::int32_t b) {
    ++before[static_cast<std::size_t>(a)];
    ++after[static_cast<std::size_t>(b)];
    ++pairs[key(a, b)];
    ++total;
  });
  double loss = 0;
  double count = 0;
  for_each_pair(valid, [&](std::int32_t a, std::int32_t b) {
    const auto found = pairs.find(key(a, b));
    const double unigram = (after[static_cast<std::size_t>(b)] + 1) / (total + static_cast<double>(vocab));
    const double seen = found == pairs.end() ? 0 : found->second;
    loss -= std::log((seen + smoothing * unigram) / (before[static_cast<std::size_t>(a)] + smoothing));
    ++count;
  });
  return loss / std::max(1.0, count);
}

}  // namespace tessera
