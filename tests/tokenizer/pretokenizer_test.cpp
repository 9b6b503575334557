#include "data/tokenizer/pretokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/json.h"

namespace tessera {
namespace {

Json golden() {
  return read_json(std::string(TESSERA_SOURCE_DIR) + "/tests/golden/tokenizers/splits.json");
}

SplitBehavior behavior(const std::string& name) {
  return name == "Isolated"             ? SplitBehavior::isolated
         : name == "Removed"            ? SplitBehavior::removed
         : name == "MergedWithPrevious" ? SplitBehavior::merged_with_previous
         : name == "MergedWithNext"     ? SplitBehavior::merged_with_next
                                        : SplitBehavior::contiguous;
}

std::vector<std::string> pieces(const Split& split, const std::string& text) {
  std::vector<std::string_view> views;
  split.apply(text, views);
  return {views.begin(), views.end()};
}

// What the Python package makes of the same texts (tests/golden/tokenizer.py).
TEST(Splits, AreThoseOfThePythonPackage) {
  const Json file = golden();
  for (const Json& one : file["cases"]) {
    const auto pattern = one["pattern"].get<std::string>();
    const Split split(pattern, "t.json", behavior(one["behavior"]), one["invert"].get<bool>());
    for (std::size_t i = 0; i < file["texts"].size(); ++i)
      EXPECT_EQ(pieces(split, file["texts"][i]), one["pieces"][i].get<std::vector<std::string>>())
          << pattern << " " << one["behavior"] << " inverted: " << one["invert"] << ", text " << i;
  }
}

TEST(Splits, WhatThePythonPackageRefusesIsRefused) {
  const Json all = golden();
  for (const Json& pattern : all["refused"])
    EXPECT_THROW(Split(pattern.get<std::string>(), "t.json"), Error) << pattern;
}

// What Oniguruma takes and what is not said in PCRE2 here, by name.
TEST(Splits, WhatIsNotReadIsNamed) {
  for (const auto& [pattern, named] : std::vector<std::pair<std::string, std::string>>{
           {"(?i:ss)", "ß"},
           {"(?i:fi)", "ﬁ"},
           {"(?i:s+)", "ß"},
           {"(?i:s)(?i:t)", "ß"},
           {"(?i:é)", "beyond ASCII"},
           {"(?i:[ß])", "beyond ASCII"},
           {"(?i:[\\p{L}])", "by property"},
           {"\\X", "text segment"},
           {"a\\Kb", "\\K"},
           {"\\Ga", "\\G"},
           {"(a)\\1", "unknown escape"},
           {"(?<x>a)\\k<x>", "back-reference"},
           {"(?<x>a)\\g<x>", "call"},
           {"(?~ab)", "absent"},
           {"(?(1)a|b)", "condition"},
           {"(*FAIL)", "callout"},
           {"(?:a*)*", "endless"},
           {"(?:a+?)?", "lazy"},
           {"a**", "repeat of a repeat"},
           {"a{2,1}", "swapped"},
           {"\\xe4\\xb8\\xad", "byte"},
           {"\\pL", "without braces"},
           {"\\p{Emoji}", "'Emoji'"},
           {"[[:alpha:]]", "[:alpha"},
           {"(?<=a+)b", "lookbehind"},
           {"(?W:\\w)", "kind of group"},
           {"\\q", "unknown escape"},
       }) {
    try {
      const Split split(pattern, "t.json");
      ADD_FAILURE() << pattern << " is taken";
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).substr(0, 7), "t.json:");
      EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
    }
  }
}

TEST(Splits, DigitsAreNumbersOfEveryScript) {
  EXPECT_EQ(pieces(Split::at_digits(true), "a12½٣b"),
            (std::vector<std::string>{"a", "1", "2", "½", "٣", "b"}));
  EXPECT_EQ(pieces(Split::at_digits(false), "a12½٣b"), (std::vector<std::string>{"a", "12½٣", "b"}));
}

TEST(Splits, ATextIsNoPattern) {
  const Split split = Split::at_text("a.+", "t.json", SplitBehavior::removed, false);
  EXPECT_EQ(pieces(split, "aaa.+b a.+"), (std::vector<std::string>{"aa", "b "}));
  EXPECT_EQ(pieces(Split::at_text("", "t.json", SplitBehavior::isolated, false), "ab"),
            (std::vector<std::string>{"a", "b"}));
}

TEST(PreTokenizer, GivesPiecesTheirSpaceOnce) {
  PreTokenizer steps;
  steps.add(Split::at_text(",", "t.json", SplitBehavior::isolated, false));
  steps.add_space_before();
  steps.add(Split::at_text("b", "t.json", SplitBehavior::removed, false));
  const auto views = steps.pieces("a, b");
  EXPECT_EQ(std::vector<std::string>(views.begin(), views.end()),
            (std::vector<std::string>{" a", " ,", " "}));
  EXPECT_TRUE(steps.pieces("").empty());
}

}  // namespace
}  // namespace tessera
