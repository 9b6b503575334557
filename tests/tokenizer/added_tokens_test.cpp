#include "data/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "core/base/error.h"
#include "core/base/philox.h"

namespace tessera {
namespace {

std::string spelled(const std::vector<std::string>& contents, const std::string& text) {
  std::deque<AddedToken> tokens;
  AddedTokens added;
  for (const std::string& content : contents) {
    AddedToken& token = tokens.emplace_back();
    token.content = content;
    added.add(token, content);
  }
  added.build("t.json");
  std::string out;
  added.split(
      text, true, [&](std::size_t begin, std::size_t end) { out += text.substr(begin, end - begin) + "|"; },
      [&](const AddedToken& token) { out += "<" + token.content + ">|"; });
  return out;
}

// Leftmost, then longest, by trying every token at every place.
std::string by_trying(const std::vector<std::string>& contents, const std::string& text) {
  std::string out;
  std::string plain;
  for (std::size_t at = 0; at < text.size();) {
    std::string best;
    for (const std::string& content : contents)
      if (content.size() > best.size() && text.compare(at, content.size(), content) == 0) best = content;
    if (best.empty()) {
      plain += text[at++];
      continue;
    }
    out += (plain.empty() ? "" : plain + "|") + "<" + best + ">|";
    plain.clear();
    at += best.size();
  }
  return out + (plain.empty() ? "" : plain + "|");
}

TEST(AddedTokens, AreLeftmostLongest) {
  auto draw = [n = std::uint64_t{0}](int below) mutable {
    return static_cast<int>(static_cast<float>(below) * uniform(Key(11, "added tokens"), n++));
  };
  for (int round = 0; round < 500; ++round) {
    const int letters = 1 + draw(3);
    const auto word = [&](int longest) {
      std::string text;
      for (int n = 1 + draw(longest); n > 0; --n) text += static_cast<char>('a' + draw(letters));
      return text;
    };
    std::set<std::string> contents;
    for (int n = 1 + draw(8); n > 0; --n) contents.insert(word(6));
    const std::vector<std::string> list(contents.begin(), contents.end());
    const std::string text = word(40);
    EXPECT_EQ(spelled(list, text), by_trying(list, text)) << "round " << round;
  }
}

// Work that grew with the number of tokens, or with the square of a token's length, would take minutes here.
TEST(AddedTokens, ManyAndLongOnesCostNothing) {
  std::vector<std::string> many;
  for (int i = 0; i < 200'000; ++i) many.push_back("<extra_" + std::to_string(i) + ">");
  many.push_back(std::string(200'000, 'a') + "b");
  const std::string text = std::string(400'000, 'a') + "<extra_199999>";
  EXPECT_EQ(spelled(many, text), std::string(400'000, 'a') + "|<<extra_199999>>|");
}

TEST(AddedTokens, TwoOfOneTextAreRefused) {
  AddedToken token;
  AddedTokens added;
  added.add(token, "x");
  added.add(token, "x");
  EXPECT_THROW(added.build("t.json"), Error);
}

}  // namespace
}  // namespace tessera
