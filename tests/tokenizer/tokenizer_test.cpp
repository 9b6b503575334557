#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/json.h"
#include "core/base/philox.h"
#include "data/text.h"
#include "data/tokenizer/trainer.h"

namespace tessera {
namespace {

class Dialect : public testing::TestWithParam<std::string> {
 protected:
  static Json golden() {
    return read_json(std::string(TESSERA_SOURCE_DIR) + "/tests/golden/tokenizers/" + GetParam() + ".json");
  }
};

// Ids and decoded text of the Python package, edge cases included (tests/golden/tokenizer.py).
TEST_P(Dialect, GivesTheIdsOfThePythonPackage) {
  const Json file = golden();
  const Tokenizer tokenizer = Tokenizer::from_json_text(file["tokenizer"].dump(), GetParam());
  for (std::size_t i = 0; i < file["texts"].size(); ++i) {
    const auto text = file["texts"][i].get<std::string>();
    const auto expected = file["ids"][i].get<std::vector<std::uint32_t>>();
    EXPECT_EQ(tokenizer.encode(text, true), expected) << "text " << i << ": " << text.substr(0, 60);
    std::string decoded = tokenizer.decode(expected);
    repair_utf8(decoded);
    EXPECT_EQ(decoded, file["decoded"][i].get<std::string>()) << i;
  }
}

TEST_P(Dialect, SpecialTextIsPlainUnlessAsked) {
  const Tokenizer tokenizer = Tokenizer::from_json_text(golden()["tokenizer"].dump(), GetParam());
  const std::string text = "a<|end_of_text|>b";
  const auto plain = tokenizer.encode(text, false);
  std::string decoded = tokenizer.decode(plain);
  // Bytes without a token are dropped or unknown in some dialects.
  const bool complete = std::all_of(text.begin(), text.end(), [&](char c) {
    return tokenizer.token_id({&c, 1}).has_value();
  });
  if (complete) {  // bytes without a token are dropped, or unknown
    EXPECT_EQ(decoded.substr(decoded.starts_with(' ') ? 1 : 0), text);
  }
  const auto id = tokenizer.token_id("<|end_of_text|>");
  EXPECT_EQ(id ? std::count(plain.begin(), plain.end(), *id) : 0, 0);
}

INSTANTIATE_TEST_SUITE_P(Known, Dialect,
                         testing::Values("gpt2", "llama3", "qwen", "o200k", "deepseek", "smollm", "olmo",
                                         "dolma2", "unknown", "fused"),
                         [](const auto& tested) { return tested.param; });

std::string trained(int seed) {
  PieceCounter counter;
  std::string text;
  for (int i = 0; i < 3000; ++i)
    text += static_cast<char>('a' + static_cast<int>(6 * uniform(Key(static_cast<std::uint64_t>(seed), "t"),
                                                                 static_cast<std::uint64_t>(i)))),
        text += i % 5 == 0 ? " " : "";
  counter.add(text);
  return train_bpe(counter, 400, {"<|end_of_text|>"});
}

TEST(Training, IsDeterministicAndReadsBack) {
  EXPECT_EQ(trained(1), trained(1));
  EXPECT_NE(trained(1), trained(2));
  const Tokenizer tokenizer = Tokenizer::from_json_text(trained(1), "trained");
  EXPECT_EQ(tokenizer.vocab_size(), 400);
  EXPECT_EQ(tokenizer.token_id("<|end_of_text|>"), 399U);
  const std::string text = "abc def öä\n\n 12345 fade";
  const auto ids = tokenizer.encode(text, true);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_LT(ids.size(), text.size());
}

// Each change makes the file something else than a byte-level BPE tokenizer that this version knows.
TEST(Malformed, IsRefusedByName) {
  const Json good = Json::parse(trained(1));
  const auto refused = [](const Json& file, const char* named) {
    try {
      Tokenizer::from_json_text(file.dump(), "t.json");
      ADD_FAILURE() << "accepted: " << named;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    }
  };
  const auto changed = [&](const char* pointer, const Json& value) {
    Json file = good;
    file[Json::json_pointer(pointer)] = value;
    return file;
  };
  refused(changed("/model/type", "Unigram"), "Unigram");
  refused(changed("/normalizer", {{"type", "NFKC"}}), "NFKC");
  refused(changed("/pre_tokenizer", {{"type", "Metaspace"}}), "Metaspace");
  refused(changed("/decoder", {{"type", "WordPiece"}}), "WordPiece");
  refused(changed("/post_processor", {{"type", "BertProcessing"}}), "BertProcessing");
  refused(changed("/pre_tokenizer/pretokenizers/0/behavior", "Sideways"), "Sideways");
  refused(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(unclosed"), "a ( without its )");
  refused(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", std::string(1 << 20, 'a')), "65536");
  refused(changed("/model/merges/0", "nospace"), "merge 0");
  refused(changed("/model/merges/0", Json::array({"zz", "qq"})), "zz");
  refused(changed("/model/merges/1", good["model"]["merges"][0]), "twice");
  refused(changed("/model/vocab/a", -1), "-1");
  refused(changed("/model/vocab/a", 3e9), "3000000000");
  refused(changed("/model/vocab/a", 70), "70");
  refused(changed("/added_tokens/0/content", ""), "empty");
  refused(changed("/added_tokens/0/single_word", 1), "single_word");
  refused(changed("/added_tokens/0/id", 400), "400");  // not its place behind the vocabulary
  refused(changed("/version", "2.0"), "2.0");
  refused(changed("/version", nullptr), "version");
  refused(changed("/model/dropout", 0.1), "dropout");
  refused(changed("/padding", {{"strategy", "x"}}), "padding");
  refused(changed("/surprise", 1), "surprise");
  refused(changed("/model/vocab/a", (std::uint64_t{1} << 31U) - 1), "2147483647");  // would need 64 GiB
  refused(changed("/model/vocab/a", 1.5), "1.5");
  refused(changed("/model/vocab/a", nullptr), "null");
  refused(changed("/model/vocab", Json::array()), "vocab");
  refused(changed("/model/merges", "a b"), "merges");
  refused(changed("/model/merges/0", Json::array({"a"})), "merge 0");
  refused(changed("/model/merges/0", Json::array({"a", "a", "a"})), "merge 0");
  refused(changed("/model/merges/0", Json::array({"a", ""})), "merge 0");
  refused(changed("/model/merges/0", 7), "merge 0");
  refused(changed("/model/byte_fallback", true), "byte_fallback");
  refused(changed("/model/unk_token", 3), "unk_token");
  refused(changed("/model/ignore_merges", "yes"), "ignore_merges");
  refused(changed("/model/continuing_subword_prefix", "##"), "continuing_subword_prefix");
  refused(changed("/model/surprise", 1), "surprise");
  refused(changed("/model", "BPE"), "model");
  refused(changed("/normalizer", "NFC"), "normalizer");
  refused(changed("/normalizer", {{"type", "Sequence"}}), "normalizers");
  refused(changed("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}}),
          "Lowercase");
  refused(changed("/pre_tokenizer", nullptr), "ByteLevel");
  refused(changed("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", 3}}), "the pre-tokenizer is 3");
  refused(changed("/pre_tokenizer/pretokenizers/0/pattern", {{"Text", " "}}), "Regex");
  refused(changed("/pre_tokenizer/pretokenizers/0/invert", 1), "invert");
  refused(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", "[a-z&&]"), "empty class");
  refused(changed("/pre_tokenizer/pretokenizers/0/pattern/String", "x"), "pattern");  // both kinds
  refused(changed("/pre_tokenizer/pretokenizers/1/add_prefix_space", 1), "add_prefix_space");
  refused(changed("/pre_tokenizer", {{"type", "Digits"}}), "individual_digits");
  refused(changed("/decoder", nullptr), "decoder");
  refused(changed("/decoder", {{"type", "ByteFallback"}}), "ByteFallback");
  refused(changed("/added_tokens", {{"id", 1}}), "added_tokens");
  refused(changed("/added_tokens/0", "x"), "added token");
  refused(changed("/added_tokens/0/id", -1), "-1");
  refused(changed("/added_tokens/0/id", 70), "<|end_of_text|>");  // another token's id in the vocabulary
  refused(changed("/added_tokens/1", good["added_tokens"][0]), "two added tokens");
  refused(changed("/added_tokens/0/lstrip", 1), "lstrip");
  Json two_lines = good;
  two_lines["model"]["vocab"]["a\nb"] = -7;
  refused(two_lines, "-7");
  Json no_byte = good;
  no_byte["model"]["unk_token"] = "<unk>";
  no_byte["model"]["merges"] = Json::array();
  Tokenizer::from_json_text(no_byte.dump(), "t.json");  // no byte is lacking, so nothing is ever unknown
  no_byte["model"]["vocab"].erase("a");
  refused(no_byte, "<unk>");
  no_byte["model"]["unk_token"] = nullptr;
  no_byte["model"]["vocab"] = {{"no byte", 0}};
  refused(no_byte, "no byte");
  const Json piece = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const auto with_template = [&](const Json& single) {
    return changed("/post_processor", {{"type", "TemplateProcessing"},
                                       {"single", single},
                                       {"pair", Json::array({piece})},
                                       {"special_tokens", Json::object()}});
  };
  const Json content = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  Tokenizer::from_json_text(with_template(Json::array({piece, content})).dump(), "t.json");
  refused(with_template("$A"), "no list");
  refused(with_template(Json::array({"$A"})), "$A");
  refused(with_template(Json::array({{{"Sequence", {{"id", "C"}, {"type_id", 0}}}}})), "C");
  refused(changed("/post_processor", {{"type", "TemplateProcessing"}}), "single");
  refused(with_template(Json::array({piece})), "does not hold its text once");
  EXPECT_THROW(
      Tokenizer::from_json_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "t.json"),
      Error);
  const std::string text = good.dump();
  for (std::size_t size = 0; size < text.size(); size += text.size() / 50)
    EXPECT_THROW(Tokenizer::from_json_text(text.substr(0, size), "cut"), Error);
}

// What the JSON itself must not do, and texts that make a pattern explode or a merge meet itself.
TEST(Malformed, JsonIsRefusedWithItsPlace) {
  const std::string good = trained(1);
  for (const std::string& text :
       {std::string(1000, '['), R"({"model": {"type": "BPE", "type": "BPE"}})" + std::string(),
        R"({"model": "\ud800"})" + std::string(), good + "x", good + std::string(1, '\0'), "\xff" + good,
        std::string("null"), std::string("[]"), std::string("{\"model\": \"a\0\"}", 14)})
    EXPECT_THROW(Tokenizer::from_json_text(text, "t.json"), Error) << text.substr(0, 60);
}

TEST(Malformed, APatternThatExplodesGivesUp) {
  Json file = Json::parse(trained(1));
  file[Json::json_pointer("/pre_tokenizer/pretokenizers/0/pattern/Regex")] = "(a+)+$";
  const Tokenizer tokenizer = Tokenizer::from_json_text(file.dump(), "t.json");
  EXPECT_THROW(tokenizer.encode(std::string(40, 'a') + "b", false), Error);
}

TEST(Malformed, MergesThatFormACycleEnd) {
  // a + a -> aa, aa + a -> aaa, a + aa -> aaa: the order of ranks decides, and encoding ends.
  Json file = Json::parse(trained(1));
  Json& vocabulary = file["model"]["vocab"];
  std::uint32_t next = 1000;
  for (const char* token : {"aa", "aaa"})
    if (!vocabulary.contains(token)) vocabulary[token] = next++;
  file["model"]["merges"] =
      Json::array({Json::array({"a", "a"}), Json::array({"aa", "a"}), Json::array({"a", "aa"})});
  file["added_tokens"] = Json::array();
  const Tokenizer tokenizer = Tokenizer::from_json_text(file.dump(), "t.json");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("aaaaaaa", false)), "aaaaaaa");
}

TEST(Utf8, RepairsMaximalParts) {
  const auto repaired = [](std::string text) {
    repair_utf8(text);
    return text;
  };
  EXPECT_EQ(repaired("a\xff"
                     "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(repaired("\xe2\x82"), "\xef\xbf\xbd");
  EXPECT_EQ(repaired("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");  // a surrogate
  EXPECT_EQ(repaired("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd");                  // overlong
  EXPECT_EQ(repaired("\xf4\x90\x80\x80").size(), 12U);                          // beyond U+10FFFF
  EXPECT_EQ(repaired("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(first_invalid_utf8("plain ascii text\x80"), 16U);
}

}  // namespace
}  // namespace tessera
