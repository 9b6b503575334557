// From text to token files: the same file on any number of threads, whole documents held out, nothing left on
// failure.

#include "data/prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "core/base/error.h"
#include "core/base/io.h"
#include "data/bigram.h"
#include "data/tokenizer/trainer.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

class Prepare : public testing::Test {
 protected:
  Prepare() {
    PieceCounter counter;
    for (int i = 0; i < 400; ++i) text_ += line(i) + (i % 3 == 2 ? "\n" : "");
    counter.add(text_);
    std::ofstream(folder / "corpus.txt") << text_;
    std::ofstream(folder / "tokenizer.json") << train_bpe(counter, 320, {"<|end|>"}, [](std::int64_t) {});
  }
  static std::string line(int i) { return "line " + std::to_string(i * i) + " of the text\n"; }

  PrepareOptions options(const std::string& out) const {
    PrepareOptions made;
    made.inputs = {folder / "corpus.txt"};
    made.out = folder / out;
    made.eos = "<|end|>";
    return made;
  }
  Tokenizer tokenizer() const { return Tokenizer::load(folder / "tokenizer.json"); }
  std::vector<std::string> documents(const std::string& name) const {
    const TokenFile file(folder / name);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.info().tokens));
    file.read(0, tokens);
    std::vector<std::int64_t> cuts = file.boundaries(0, file.info().tokens);
    cuts.insert(cuts.begin(), 0);
    cuts.push_back(file.info().tokens);
    std::vector<std::string> texts;
    for (std::size_t d = 0; d + 1 < cuts.size(); ++d)
      texts.push_back(tokenizer().decode(
          std::vector<std::uint32_t>(tokens.begin() + cuts[d], tokens.begin() + cuts[d + 1])));
    return texts;
  }

  TemporaryFolder folder;
  std::string text_;
};

TEST_F(Prepare, DocumentsComeBackEachEndedByItsToken) {
  prepare(tokenizer(), options("t.h5"));
  std::string all;
  const auto texts = documents("t.h5");
  EXPECT_EQ(texts.size(), 134U);
  for (const std::string& one : texts) {
    ASSERT_TRUE(one.ends_with("\n<|end|>")) << one;
    all += one.substr(0, one.size() - 7) + "\n";
  }
  EXPECT_EQ(all, text_ + "\n");
  const TokenFile file(folder / "t.h5");
  EXPECT_EQ(file.info().text_bytes, text_.size() - 133);  // blank lines belong to no document
  EXPECT_EQ(file.tokenizer_json(), io::read_text(folder / "tokenizer.json"));
}

// A pattern that gives up on a text says where the text is.
TEST_F(Prepare, APreTokenizerThatGivesUpNamesFileAndLine) {
  std::string json = io::read_text(folder / "tokenizer.json");
  const std::string key = "\"Regex\": \"";
  const std::size_t begin = json.find(key) + key.size();
  std::size_t end = begin;
  while (json[end] != '"') end += json[end] == '\\' ? 2 : 1;
  json.replace(begin, end - begin, "^(a+)+$");
  const Tokenizer slow = Tokenizer::from_json_text(json, "slow");
  std::ofstream(folder / "good.txt") << "fine\n\nalso fine\n";
  std::ofstream(folder / "bad.txt") << "fine\n\nalso\nfine\n\n" << std::string(60, 'a') << "!\n\nfine\n";
  PrepareOptions both = options("t.h5");
  both.inputs = {folder / "good.txt", folder / "bad.txt"};
  try {
    prepare(slow, both);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "bad.txt:6: the pre-tokenizer gives up", std::string(e.what()));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "t.h5"));
}

// The last of several inputs is looked at before the first is tokenized.
TEST_F(Prepare, LooksAtAllInputsFirst) {
  for (const char* last : {"absent.txt", "a.pdf", "empty.txt.gz"}) {
    std::ofstream(folder / "a.pdf") << "x";
    std::ofstream(folder / "empty.txt.gz").flush();
    PrepareOptions several = options("t.h5");
    std::ofstream(folder / "bad.jsonl") << "not JSON\n";
    several.inputs = {folder / "bad.jsonl", folder / last};
    try {
      prepare(tokenizer(), several);
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_PRED_FORMAT2(testing::IsSubstring, last, std::string(e.what()));
    }
  }
}

TEST_F(Prepare, ThreadsDoNotShow) {
  PrepareOptions one = options("one.h5");
  one.valid_fraction = 0.2;
  prepare(tokenizer(), one);
  PrepareOptions three = one;
  three.out = folder / "three.h5";
  three.threads = 3;
  prepare(tokenizer(), three);
  EXPECT_EQ(io::read_text(folder / "one.h5"), io::read_text(folder / "three.h5"));
  EXPECT_EQ(io::read_text(folder / "one.valid.h5"), io::read_text(folder / "three.valid.h5"));
}

TEST_F(Prepare, WholeDocumentsAreHeldOut) {
  prepare(tokenizer(), options("all.h5"));
  PrepareOptions held = options("t.h5");
  held.valid_fraction = 0.25;
  const Prepared prepared = prepare(tokenizer(), held);
  ASSERT_TRUE(prepared.valid);
  // Binomial(134, 1/4) lies within five deviations (5.0 each) of its mean 33.5.
  EXPECT_NEAR(static_cast<double>(prepared.valid->documents), 33.5, 25.1);
  std::multiset<std::string> both;
  for (const char* name : {"t.h5", "t.valid.h5"})
    for (const std::string& one : documents(name)) both.insert(one);
  const auto all = documents("all.h5");
  EXPECT_EQ(both, std::multiset<std::string>(all.begin(), all.end()));
}

TEST_F(Prepare, SpecialTextIsPlainUnlessAsked) {
  std::ofstream(folder / "corpus.txt") << "a <|end|> b";
  prepare(tokenizer(), options("plain.h5"));
  PrepareOptions parsed = options("parsed.h5");
  parsed.parse_special = true;
  prepare(tokenizer(), parsed);
  EXPECT_EQ(documents("plain.h5"), documents("parsed.h5"));  // the same text, of other tokens
  EXPECT_GT(TokenFile(folder / "plain.h5").info().tokens, TokenFile(folder / "parsed.h5").info().tokens + 3);
}

TEST_F(Prepare, NothingIsLeftWhereItFails) {
  struct Case {
    const char* name;
    std::function<void(PrepareOptions&)> change;
    const char* word;
  };
  std::ofstream(folder / "bad.jsonl") << "{\"text\": \"x\"}\nnonsense\n";
  std::ofstream(folder / "empty.txt") << "\n\n";
  std::ofstream(folder / "one.txt") << "one document";
  const std::vector<Case> cases{
      {"a bad line in the second input", [&](auto& o) { o.inputs.push_back(folder / "bad.jsonl"); },
       "bad.jsonl:2"},
      {"an absent input", [&](auto& o) { o.inputs.push_back(folder / "absent.txt"); }, "absent.txt"},
      {"no text at all", [&](auto& o) { o.inputs = {folder / "empty.txt"}; }, "no token"},
      {"nothing held out", [&](auto& o) { o.valid_fraction = 1e-9; }, "t.valid.h5"},
      {"all held out",
       [&](auto& o) {
         o.inputs = {folder / "one.txt"};
         o.valid_fraction = 0.9;
       },
       "t.h5' without any of the 1 document(s) read"},
      {"an unknown token", [&](auto& o) { o.eos = "<|no|>"; }, "<|no|>"},
      {"an absent folder", [&](auto& o) { o.out = folder / "absent/t.h5"; }, "absent/t.h5"},
  };
  for (const Case& one : cases) {
    PrepareOptions wrong = options("t.h5");
    one.change(wrong);
    try {
      prepare(tokenizer(), wrong);
      ADD_FAILURE() << one.name;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(one.word), std::string::npos) << one.name << ": " << e.what();
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      EXPECT_EQ(entry.path().filename().string().rfind("t.", 0), std::string::npos)
          << one.name << ": " << entry.path();
  }
}

// log-loss of the smoothed counts, written down naively.
TEST(Bigram, IsTheNaiveSum) {
  const TemporaryFolder folder;
  write_counting_file(folder / "train.h5", 60, 17);
  write_counting_file(folder / "valid.h5", 23, 17);
  const TokenFile train(folder / "train.h5");
  const TokenFile valid(folder / "valid.h5");
  std::map<std::pair<int, int>, double> pairs;
  std::map<int, double> before, after;
  const auto each_pair = [](const TokenFile& file, auto visit) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.info().tokens));
    file.read(0, tokens);
    const auto cuts = file.boundaries(0, file.info().tokens);
    for (std::size_t i = 1; i < tokens.size(); ++i)
      if (std::find(cuts.begin(), cuts.end(), static_cast<std::int64_t>(i)) == cuts.end())
        visit(tokens[i - 1], tokens[i]);
  };
  double total = 0;
  each_pair(train, [&](int a, int b) { ++pairs[{a, b}], ++before[a], ++after[b], ++total; });
  double loss = 0;
  double count = 0;
  each_pair(valid, [&](int a, int b) {
    const double p = (pairs[{a, b}] + 4 * (after[b] + 1) / (total + 17)) / (before[a] + 4);
    loss -= std::log(p);
    ++count;
  });
  EXPECT_NEAR(bigram_loss(train, valid), loss / count, 1e-12);
}

}  // namespace
}  // namespace tessera
