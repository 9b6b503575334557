// Readers of text and JSON lines: what documents they give, and what they refuse, naming file and place.

#include "data/documents.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>

#include "core/base/error.h"
#include "tests/data/compressed.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

class Documents : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(folder / name, std::ios::binary) << content;
    return folder / name;
  }
  std::vector<std::string> read(const std::string& name, const std::string& content,
                                const DocumentOptions& options = {}) {
    DocumentReader reader(write(name, content), options);
    std::vector<std::string> documents;
    for (std::string document; reader.next(document);) documents.push_back(document);
    repaired = reader.repaired();
    first_repaired = reader.first_repaired();
    return documents;
  }
  // The refusal, without the folder; "" if there is none.
  std::string refusal(const std::string& name, const std::string& content,
                      const DocumentOptions& options = {}) {
    try {
      read(name, content, options);
      return "";
    } catch (const Error& e) {
      std::string what = e.what();
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      const std::string prefix = folder.path().string() + "/";
      for (std::size_t at; (at = what.find(prefix)) != std::string::npos;) what.erase(at, prefix.size());
      return what;
    }
  }
  static DocumentOptions split(const std::string& how) {
    DocumentOptions options;
    options.split = how;
    return options;
  }

  TemporaryFolder folder;
  std::uint64_t repaired = 0, first_repaired = 0;
};

using Texts = std::vector<std::string>;

TEST_F(Documents, TextSplitsThreeWays) {
  const std::string text = "one\ntwo\n\n \t\r\nthree\n\n";
  EXPECT_EQ(read("a.txt", text), (Texts{"one\ntwo\n", "three\n"}));
  EXPECT_EQ(read("a.txt", text, split("file")), (Texts{text}));
  EXPECT_EQ(read("a.txt", "preface\n# a\nx\n# b\n# c\ny", split("^# ")),
            (Texts{"preface\n", "# a\nx\n", "# b\n", "# c\ny"}));
  EXPECT_EQ(read("a.txt", "# a\nx\n", split("^# ")), (Texts{"# a\nx\n"}));
  EXPECT_EQ(read("a.txt", ""), Texts{});
  EXPECT_EQ(read("a.txt", "\n\n"), Texts{});
  EXPECT_EQ(read("plain", "no extension is text"), Texts{"no extension is text"});
}

TEST_F(Documents, TextKeepsWhatIsValidAndRepairsTheRest) {
  struct Case {
    const char* name;
    std::string text, expected;
    std::uint64_t count, first;
  };
  const std::string bad = "\xef\xbf\xbd";
  const std::vector<Case> cases{
      {"overlong", "ab\xc0\xaf", "ab" + bad + bad, 2, 2},
      {"lone continuation", "a\x80z", "a" + bad + "z", 1, 1},
      {"truncated sequence", "a\xe2\x82", "a" + bad, 1, 1},
      {"surrogate", "\xed\xa0\x80", bad + bad + bad, 3, 0},
      {"beyond U+10FFFF", "\xf4\x90\x80\x80", bad + bad + bad + bad, 4, 0},
      {"impossible bytes", "\xfe\xff", bad + bad, 2, 0},
      {"byte order mark", "\xef\xbb\xbftext", "text", 0, 0},
      {"NUL", std::string("a\0b", 3), std::string("a\0b", 3), 0, 0},
      {"variation selectors", "\xe2\x9d\xa4\xef\xb8\x8f", "\xe2\x9d\xa4\xef\xb8\x8f", 0, 0},
      {"special-token text", "<|endoftext|>", "<|endoftext|>", 0, 0},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(read("a.txt", one.text, split("file")), Texts{one.expected}) << one.name;
    EXPECT_EQ(repaired, one.count) << one.name;
    EXPECT_EQ(first_repaired, one.first) << one.name;
    DocumentOptions strict = split("file");
    strict.strict = true;
    const std::string refused = refusal("a.txt", one.text, strict);
    EXPECT_EQ(refused, one.count == 0
                           ? ""
                           : "'a.txt': byte " + std::to_string(one.first) + " is not valid UTF-8 (--strict)")
        << one.name;
  }
  read("a.txt", "fine\n\nalso fine\n\nnot \xff\n");
  EXPECT_EQ(first_repaired, 21U);  // in the file, not in the document
}

TEST_F(Documents, LongRunsTakeLinearTime) {
  for (const std::string& unit : Texts{"a", " ", "7", "e\xcc\x81"}) {
    std::string text;
    for (int i = 0; i < 2'000'000; i += static_cast<int>(unit.size())) text += unit;
    EXPECT_EQ(read("a.txt", text, split("file")), Texts{text});
  }
  EXPECT_EQ(read("a.txt", std::string(2'000'000, '\n')), Texts{});
}

TEST_F(Documents, JsonLinesGiveTheirText) {
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"one\"}\r\n\n{\"id\": 3, \"text\": \"t\\u00e9\\n\"}"),
            (Texts{"one", "té\n"}));
  EXPECT_EQ(read("a.jsonl", ""), Texts{});
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"x\"}\n"), Texts{"x"});
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"\\ud83d\\ude00\"}"), Texts{"\xf0\x9f\x98\x80"});
  DocumentOptions other;
  other.text_key = "body";
  EXPECT_EQ(read("a.jsonl", "{\"body\": \"b\", \"text\": \"t\"}", other), Texts{"b"});
  std::string longest;
  longest.resize(20'000'000, 'x');
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"" + longest + "\"}\n"), Texts{longest});
}

TEST_F(Documents, BadJsonLinesAreRefusedWithTheirLine) {
  struct Case {
    const char* name;
    std::string line;
    const char* word;
  };
  const std::string deep =
      "{\"text\": \"x\", \"y\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  const std::vector<Case> cases{
      {"array", "[1]", "no JSON object"},
      {"string", "\"text\"", "no JSON object"},
      {"number", "3", "no JSON object"},
      {"key missing", "{\"body\": \"x\"}", "--text-key"},
      {"text is a number", "{\"text\": 3}", "'text' is no text"},
      {"text is null", "{\"text\": null}", "'text' is no text"},
      {"text is an object", "{\"text\": {}}", "'text' is no text"},
      {"duplicate key", "{\"text\": \"a\", \"text\": \"b\"}", "duplicate key 'text'"},
      {"bad escape", "{\"text\": \"\\x\"}", "invalid JSON"},
      {"short escape", "{\"text\": \"\\u12\"}", "invalid JSON"},
      {"lone high surrogate", "{\"text\": \"\\ud83d\"}", "invalid JSON"},
      {"lone low surrogate", "{\"text\": \"\\ude00\"}", "invalid JSON"},
      {"bad UTF-8", "{\"text\": \"\xff\"}", "invalid JSON"},
      {"raw control character", "{\"text\": \"a\tb\"}", "invalid JSON"},
      {"NUL after the value", std::string("{\"text\": \"a\"}\0", 14), "a NUL byte"},
      {"NUL between two values", std::string("{\"text\": \"a\"}\0{\"text\": \"b\"}", 27), "a NUL byte"},
      {"NUL alone", std::string("\0", 1), "a NUL byte"},
      {"raw NUL", std::string("{\"text\": \"a\0b\"}", 15), "a.jsonl:2"},
      {"not closed", "{\"text\": \"a\"", "invalid JSON"},
      {"two values", "{\"text\": \"a\"} {}", "invalid JSON"},
      {"comment", "{\"text\": \"a\"} // x", "invalid JSON"},
      {"trailing comma", "{\"text\": \"a\",}", "invalid JSON"},
      {"NaN", "{\"text\": \"a\", \"n\": NaN}", "invalid JSON"},
      {"depth", deep, "nested levels"},
  };
  for (const Case& one : cases) {
    const std::string refused = refusal("a.jsonl", "{\"text\": \"fine\"}\n" + one.line + "\n");
    EXPECT_EQ(refused.rfind("a.jsonl:2", 0), 0U) << one.name << ": " << refused;
    EXPECT_NE(refused.find(one.word), std::string::npos) << one.name << ": " << refused;
  }
}

TEST_F(Documents, CompressedFilesReadAlike) {
  const std::string text = "one\n\ntwo\n";
  const Texts expected{"one\n", "two\n"};
  EXPECT_EQ(read("a.txt.gz", gzipped(text)), expected);
  EXPECT_EQ(read("a.txt.gz", gzipped("one\n") + gzipped("\ntwo\n")), expected);  // several members
  EXPECT_EQ(read("a.txt.zst", zstd_compressed(text)), expected);
  EXPECT_EQ(read("a.txt.zst", zstd_compressed("one\n") + zstd_compressed("\ntwo\n")), expected);
  const std::string skippable = std::string("\x50\x2a\x4d\x18\x03\0\0\0", 8) + "xyz";
  EXPECT_EQ(read("a.txt.zst", skippable + zstd_compressed(text) + skippable), expected);
  EXPECT_EQ(read("a.jsonl.zst", zstd_compressed("{\"text\": \"x\"}\n")), Texts{"x"});
  EXPECT_EQ(read("a.jsonl.gz", gzipped("{\"text\": \"x\"}\n")), Texts{"x"});
  EXPECT_EQ(read("a.txt.gz", gzipped("")), Texts{});
}

TEST_F(Documents, DamagedCompressionIsRefused) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += std::to_string(i * 7919 % 65521) + "\n";
  const std::string gz = gzipped(text);
  const std::string zst = zstd_compressed(text);
  for (const std::size_t keep : {std::size_t{3}, std::size_t{12}, gz.size() / 2, gz.size() - 1})
    EXPECT_EQ(refusal("a.txt.gz", gz.substr(0, keep)),
              "'a.txt.gz' is truncated: its gzip stream does not end")
        << keep;
  for (const std::size_t keep : {std::size_t{3}, std::size_t{12}, zst.size() / 2, zst.size() - 1})
    EXPECT_EQ(refusal("a.txt.zst", zst.substr(0, keep)),
              "'a.txt.zst' is truncated: its zstd frame does not end")
        << keep;
  std::string bad = gz;
  bad[bad.size() - 6] = static_cast<char>(bad[bad.size() - 6] ^ 1);  // the CRC
  EXPECT_NE(refusal("a.txt.gz", bad).find("'a.txt.gz' is damaged near byte"), std::string::npos);
  bad = zst;
  bad.back() = static_cast<char>(bad.back() ^ 1);  // the checksum
  EXPECT_NE(refusal("a.txt.zst", bad).find("'a.txt.zst' is damaged near byte"), std::string::npos);
  for (const char* name : {"a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.jsonl.zst"})
    EXPECT_EQ(refusal(name, ""),
              fmt::format("'{}' is truncated: it has no byte, and a compressed file has a header", name));
  for (const char* name : {"a.txt.gz", "a.txt.zst"})
    EXPECT_NE(refusal(name, "this is no compressed text").find("is damaged near byte"), std::string::npos);
  // A window beyond 128 MiB asks for more memory than a reader should give.
  EXPECT_NE(refusal("a.txt.zst", zstd_compressed(text, 28)).find("is damaged near byte"), std::string::npos);
}

// A gigabyte of zeros out of a megabyte: refused at the longest line, and never held whole.
TEST_F(Documents, ABombIsRefusedInBoundedMemory) {
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  const std::string part = gzipped(std::string(16 << 20, 'x'));
  std::string bomb;
  for (int i = 0; i < 64; ++i) bomb += part;
  EXPECT_EQ(refusal("a.txt.gz", bomb), "a.txt.gz:1: a line of more than 256 MiB");
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss,
            900L << 10);  // a string doubles: 256 MiB beside 512 MiB at most
}

TEST_F(Documents, KnowTheirLine) {
  const auto lines = [&](const std::string& name, const std::string& content,
                         const DocumentOptions& options) {
    DocumentReader reader(write(name, content), options);
    std::vector<std::uint64_t> found;
    for (std::string document; reader.next(document);) found.push_back(reader.line());
    return found;
  };
  using Lines = std::vector<std::uint64_t>;
  EXPECT_EQ(lines("a.txt", "\n\none\ntwo\n\n\nthree\n", {}), (Lines{3, 7}));
  EXPECT_EQ(lines("a.txt", "x\n# a\ny\n# b\n", split("^# ")), (Lines{1, 2, 4}));
  EXPECT_EQ(lines("a.txt", "\nx\n", split("file")), (Lines{1}));
  EXPECT_EQ(lines("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"\"}\n{\"text\": \"b\"}\n", {}),
            (Lines{1, 4}));
}

// What a tokenizer is trained on: all of the text, cut at lines alone.
TEST_F(Documents, TextReaderGivesAllOfTheText) {
  std::string text;
  for (int i = 0; i < 400'000; ++i) text += "line " + std::to_string(i) + "\n";
  text += "and no newline";
  for (const auto& [name, content] : {std::pair<std::string, std::string>{"a.txt", text},
                                      {"a.md", text},
                                      {"a.txt.gz", gzipped(text)},
                                      {"a.txt.zst", zstd_compressed(text)}}) {
    TextReader reader(write(name, content), "text");
    std::string all;
    int blocks = 0;
    for (std::string block; reader.next(block); ++blocks) {
      EXPECT_EQ(reader.line(), 1 + static_cast<std::uint64_t>(std::count(all.begin(), all.end(), '\n')));
      EXPECT_TRUE(all.empty() || all.back() == '\n');
      all += block;
    }
    EXPECT_EQ(all, text) << name;
    EXPECT_EQ(reader.bytes_read(), content.size()) << name;
  }
  TextReader rows(write("a.jsonl", "{\"body\": \"one\"}\n\n{\"body\": \"two\"}\n"), "body");
  std::string row;
  EXPECT_TRUE(rows.next(row) && row == "one");
  EXPECT_TRUE(rows.next(row) && row == "two" && rows.line() == 3);
  EXPECT_FALSE(rows.next(row));
  TextReader empty(write("a.txt", ""), "text");
  EXPECT_FALSE(empty.next(row));
  EXPECT_THROW(TextReader(write("a.txt.gz", ""), "text"), Error);
}

TEST_F(Documents, WrongFilesAndPatternsAreNamed) {
  EXPECT_NE(refusal("a.pdf", "x").find(".pdf"), std::string::npos);
  EXPECT_NE(refusal("a.txt", "x", split("(")).find("--documents: '(' is no regular expression"),
            std::string::npos);
  EXPECT_NE(
      refusal("a.txt", "x\n" + std::string(60, 'a') + "!\n", split("^(a+)+$")).find("a.txt:2: --documents"),
      std::string::npos);
  EXPECT_THROW(DocumentReader(folder / "absent.txt", {}), Error);
  EXPECT_THROW(DocumentReader(folder.path().string() + ".txt/", {}), Error);
}

}  // namespace
}  // namespace tessera
