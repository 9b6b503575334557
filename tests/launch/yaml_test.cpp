// The strict YAML tree: every kind of document that is refused, and where it says the fault is.
#include "launch/config/yaml.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/error.h"

namespace tessera::yaml {
namespace {

std::string refusal(const std::string& text) {
  try {
    parse(text, "c.yaml");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
  return "accepted";
}

struct Case {
  const char* name;
  std::string text;
  const char* message;  // how the message begins
};

std::string nested(std::size_t levels) {
  return std::string(levels, '[') + std::string(levels, ']');
}

std::string long_list(std::size_t count) {
  std::string out = "a: [0";
  for (std::size_t i = 1; i < count; ++i) out += ",0";
  return out + "]";
}

// Each level holds the one before it nine times.
std::string alias_bomb() {
  std::string out = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n";
  for (char level = '1'; level < '9'; ++level) {
    const std::string before{'*', 'a', static_cast<char>(level - 1)};
    out.append({'a', level, ':', ' ', '&', 'a', level, ' ', '['}).append(before);
    for (int j = 1; j < 9; ++j) out.append(",").append(before);
    out.append("]\n");
  }
  return out;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"empty", "", "c.yaml: empty"},
      {"comment_only", "# nothing\n", "c.yaml: empty"},
      {"duplicate_key", "a: 1\nb: 2\na: 3\n", "c.yaml:3:1: duplicate key 'a'; it is first given at line 1"},
      {"duplicate_in_flow", "m: {x: 1, x: 2}\n", "c.yaml:1:11: duplicate key 'x'"},
      {"duplicate_quoted", "a: 1\n\"a\": 2\n", "c.yaml:2:1: duplicate key 'a'"},
      {"cycle", "a: &x [*x]\n", "c.yaml:1:8: an alias inside what it stands for"},
      {"cycle_in_map", "a: &x\n  b: *x\n", "c.yaml:2:6: an alias inside what it stands for"},
      {"unknown_alias", "a: *x\n", "c.yaml:1:4: not valid YAML"},
      {"alias_bomb", alias_bomb(), "c.yaml:5:"},
      {"alias_key", "a: &x b\n*x : 1\n", "c.yaml:2:1: an alias cannot be a key"},
      {"anchored_key", "&k a: 1\n", "c.yaml:1:1: an anchor on a key"},
      {"two_documents", "a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document"},
      {"merge_key", "a: &x {b: 1}\nc: {<<: *x}\n", "c.yaml:2:5: merge keys"},
      {"tag", "a: !!int 3\n", "c.yaml:1:4: the tag"},
      {"python_tag", "a: !!python/object:os.system [x]\n", "c.yaml:1:4: the tag"},
      {"octal", "a: 010\n", "c.yaml:1:4: '010' is read as different numbers"},
      {"octal_real", "a: 010.5\n", "c.yaml:1:4: '010.5' is read as different numbers"},
      {"octal_12", "a: 0o17\n", "c.yaml:1:4: '0o17' is read"},
      {"hexadecimal", "a: 0x10\n", "c.yaml:1:4: '0x10' is read"},
      {"underscore", "a: 1_000\n", "c.yaml:1:4: '1_000' is read"},
      {"overflow", "a: 1e400\n", "c.yaml:1:4: 1e400 is out of range"},
      {"integer_overflow", "a: 9223372036854775808\n", "c.yaml:1:4: 9223372036854775808 does not fit"},
      {"bad_utf8", "a: 1\nb: \"x\xff\"\n", "c.yaml:2:6: not UTF-8"},
      {"cut_utf8", "a: \xe2\x82", "c.yaml:1:4: not UTF-8"},
      {"overlong_utf8", "a: \xc0\xaf\n", "c.yaml:1:4: not UTF-8"},
      {"surrogate", "a: \xed\xa0\x80\n", "c.yaml:1:4: not UTF-8"},
      {"utf16",
       std::string("\xff\xfe"
                   "a\0",
                   4),
       "c.yaml:1:1: not UTF-8"},
      {"nul", std::string("a: \0", 4), "c.yaml:1:4: control character 0x00"},
      {"deep", "a: " + nested(64), "c.yaml:1:67: more than 64 levels"},
      {"very_deep", nested(100000), "c.yaml:1:65: more than 64 levels"},
      {"many_nodes", long_list(100001), "c.yaml:1:"},
      {"large", "a: " + std::string(std::size_t{1} << 20, 'x'), "c.yaml: larger than 1 MiB"},
      {"list_key", "? [a]\n: 1\n", "c.yaml:1:3: a key must be a word"},
      {"missing_key", ": 1\n", "c.yaml:1:"},
      {"bad_indent", "a:\n  b: 1\n c: 2\n", "c.yaml:3:"},
      {"tab_indent", "a:\n\tb: 1\n", "c.yaml:2:"},
      {"unclosed_flow", "a: [1, 2\n", "c.yaml:"},
      {"unclosed_quote", "a: \"x\n", "c.yaml:"},
  };
  return all;
}

class Malformed : public testing::TestWithParam<Case> {};

TEST_P(Malformed, IsRefusedWithItsPlace) {
  const std::string message = refusal(GetParam().text);
  EXPECT_EQ(message.substr(0, std::string(GetParam().message).size()), GetParam().message) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Yaml, Malformed, testing::ValuesIn(cases()),
                         [](const auto& one) { return std::string(one.param.name); });

Kind kind_of(const std::string& scalar) {
  return parse("a: " + scalar + "\n", "c.yaml").find("a")->kind;
}

TEST(Yaml, PlainScalarsFollowTheCoreSchema) {
  EXPECT_EQ(kind_of("12"), Kind::integer);
  EXPECT_EQ(kind_of("-0"), Kind::integer);
  EXPECT_EQ(kind_of("+3"), Kind::integer);
  for (const char* real : {"1e-3", "1.", ".5", "-1.5E+2", "0.0"})
    EXPECT_EQ(kind_of(real), Kind::real) << real;
  for (const char* text : {"yes", "NO", "on", "1.2.3", "nan", ".nan", ".inf", "1e", "1:30", "2024-01-01"}) {
    EXPECT_EQ(kind_of(text), Kind::string) << text;
  }
  for (const char* quoted : {"\"3\"", "'true'", "\"\"", "\"010\""})
    EXPECT_EQ(kind_of(quoted), Kind::string) << quoted;
  for (const char* null : {"", "~", "null"}) EXPECT_EQ(kind_of(null), Kind::null) << null;
  EXPECT_EQ(kind_of("True"), Kind::boolean);
}

TEST(Yaml, KeepsPlacesAndOrder) {
  const Node root = parse("\xef\xbb\xbf# c\nb: 1\na:\n  - x: 2\n", "c.yaml");
  ASSERT_EQ(root.entries.size(), 2u);
  EXPECT_EQ(root.entries[0].key, "b");
  EXPECT_EQ(root.find("a")->items.at(0).find("x")->place.text(), "c.yaml:4:8");
}

TEST(Yaml, AliasesAreCopies) {
  const Node root = parse("a: &x {k: [1, 2]}\nb: *x\n", "c.yaml");
  EXPECT_EQ(root.find("b")->find("k")->items.size(), 2u);
}

TEST(Yaml, QuotedStringsComeBack) {
  for (const std::string& text :
       {std::string("plain"), std::string("a b"), std::string("3"), std::string("yes"), std::string(""),
        std::string("x\"y\\z\n\t"), std::string("- a"), std::string("1e3"), std::string("null"),
        std::string("./a.h5"), std::string("dé"), std::string("a: b"), std::string("*x"), std::string(".5"),
        std::string("\x1b[0m")}) {
    const Node root = parse("a: " + quote_if_needed(text) + "\n", "c.yaml");
    EXPECT_EQ(root.find("a")->kind, Kind::string) << text;
    EXPECT_EQ(root.find("a")->text, text);
  }
}

}  // namespace
}  // namespace tessera::yaml
