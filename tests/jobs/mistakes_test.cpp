// Command lines that are wrong: one line each, which says what, where and what to do, and exit code 2.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/jobs/job.h"

namespace tessera {
namespace {

class Mistakes : public testing::Test {
 protected:
  void expect_line(const Words& arguments, const Words& words, int code = 2) {
    std::string command;
    for (const std::string& argument : arguments) command += argument.substr(0, 60) + " ";
    EXPECT_EQ(runs.verb(arguments), code) << command << "\n" << runs.output;
    EXPECT_EQ(count(runs.output, "\n"), 1) << command << "\n" << runs.output;
    EXPECT_LT(runs.output.size(), 1000U) << command;
    for (const std::string& word : words)
      EXPECT_NE(runs.output.find(word), std::string::npos) << command << "\n" << runs.output;
  }
  Runs runs;
};

TEST_F(Mistakes, UnknownWordsGetASuggestion) {
  expect_line({"trian", "run.yaml"}, {"'trian' is no verb of tessera", "did you mean 'train'?"});
  expect_line({"tokenizer", "trian", "--out", "x", "a.txt"}, {"no verb of tessera tokenizer", "'train'"});
  expect_line({"data", "prepar", "a.txt"}, {"no verb of tessera data", "'prepare'"});
  expect_line({"checkpoint", "inspct", "c"}, {"no verb of tessera checkpoint", "'inspect'"});
  expect_line({"bench", "kernel"}, {"no verb of tessera bench", "'kernels'"});
  expect_line({"zzzzzz"}, {"'zzzzzz' is no verb", "there are:", "publish"});
  expect_line({}, {"a verb is missing", "publish"});
  expect_line({"config"}, {"a verb is missing", "show", "`tessera config --help`"});
  expect_line({"train", "run.yaml", "--rank2", "3"}, {"'--rank2' is no option of tessera train", "'--rank"});
  expect_line({"train", "run.yaml", "--frseh"}, {"'--frseh'", "did you mean '--fresh'?"});
  expect_line({"launch", "run.yaml", "--rankz=3"}, {"'--rankz'", "'--ranks'"});
  expect_line({"data", "prepare", "--tokenizr", "t.json", "--out", "x.h5", "a.txt"},
              {"'--tokenizr' is no option of tessera data prepare", "'--tokenizer'"});
  expect_line({"tokenizer", "train", "--vocab-sise", "300", "a.txt"}, {"'--vocab-size'"});
  expect_line({"--verbose"}, {"'--verbose' is no option of tessera"});
  expect_line({"eval", "c", "more"}, {"'more' is an argument too many for tessera eval"});
}

TEST_F(Mistakes, WhatIsMissingOrGivenTwice) {
  expect_line({"train"}, {"config is required", "`tessera train --help`"});
  expect_line({"data", "prepare", "a.txt", "--out", "x.h5"}, {"--tokenizer is required"});
  expect_line({"publish", "c"}, {"OUT is required"});
  expect_line({"train", "run.yaml", "--ranks"}, {"--ranks lacks its value"});
  expect_line({"train", "run.yaml", "--ranks", "1", "--ranks", "2"}, {"--ranks is given more than once"});
  expect_line({"generate", "c", "--prompt", "a", "--prompt-ids", "1"},
              {"--prompt", "excludes", "--prompt-ids"});
}

// Every option that takes a number, with what is none, or none that it can be: by turns two of the values.
TEST_F(Mistakes, NumbersAreWholeFiniteAndInRange) {
  const std::string digits(100000, '9');
  std::size_t turn = 0;
  const auto expect_two = [&](const Words& words, const Words& values, const std::string& what) {
    for (const std::size_t next : {turn, turn + 3}) {
      Words arguments = words;
      arguments.push_back(values[next % values.size()]);
      expect_line(arguments, {words.back(), what});
    }
    ++turn;
  };
  const std::vector<Words> whole{{"train", "run.yaml", "--ranks"},
                                 {"train", "run.yaml", "--rank"},
                                 {"launch", "run.yaml", "--ranks"},
                                 {"verify", "run.yaml", "--ranks"},
                                 {"data", "prepare", "a.txt", "--out", "x", "--tokenizer", "t", "--threads"},
                                 {"tokenizer", "train", "a.txt", "--vocab-size"},
                                 {"eval", "c", "--seq-len"},
                                 {"eval", "c", "--batch"},
                                 {"eval", "c", "--threads"},
                                 {"generate", "c", "--max-tokens"},
                                 {"generate", "c", "--seed"},
                                 {"generate", "c", "--prompt-ids"},
                                 {"logits", "c", "--tokens", "t", "--out", "x", "--threads"},
                                 {"publish", "c", "x", "--threads"},
                                 {"bench", "matmul", "--hidden-size"},
                                 {"bench", "matmul", "--threads"},
                                 {"bench", "kernels", "--rounds"}};
  for (const Words& words : whole)
    expect_two(words, {"-1", "nan", "1e3", "0x10", "010", "1.5", " 1", digits}, "must be a whole number");
  const std::vector<Words> real{
      {"generate", "c", "--temperature"},
      {"generate", "c", "--top-p"},
      {"data", "prepare", "a.txt", "--out", "x", "--tokenizer", "t", "--valid-fraction"},
      {"bench", "kernels", "--milliseconds"}};
  for (const Words& words : real)
    expect_two(words, {"-1", "nan", "inf", "-nan", "1e999", "x", "0,5", digits}, "must be a number");
  for (const std::string& value : {std::string("nan"), std::string("inf"), std::string("-5GB"),
                                   std::string("5XB"), std::string("0"), digits + "GB"})
    expect_line({"publish", "c", "x", "--max-shard-size", value}, {"--max-shard-size", "5GB"});
}

TEST_F(Mistakes, WordsOfOthersGetAdvice) {
  for (const Words& verb :
       std::vector<Words>{{"verify", "run.yaml"}, {"generate", "c"}, {"bench", "kernels"}}) {
    Words words = verb;
    words.insert(words.end(), {"--device", "tpu"});
    expect_line(words, {"--device", "must be cpu or cuda, found 'tpu'"});
    words.back() = "gpu";
    expect_line(words, {"--device", "a GPU is cuda"});
    words.back() = "0";
    expect_line(words, {"--device", "must be cpu or cuda"});
  }
  expect_line({"eval", "c", "--precision", "fp16"}, {"--precision", "must be fp32 or bf16", "use bf16"});
  expect_line({"publish", "c", "x", "--dtype", "int8"}, {"--dtype", "fp32, bf16, fp16"});
  expect_line({"train", "run.yaml", "train.precision=fp16"}, {"precision", "'fp16'", "use bf16"});
  expect_line({"train", "run.yaml", "train.device=gpu"}, {"device", "a GPU is cuda"});
}

TEST_F(Mistakes, TextThatCannotBeWhatItIsFor) {
  std::ofstream(runs / "a.txt") << "some text\n";
  expect_line({"tokenizer", "train", "a.txt", "--special", ""}, {"--special", "must not be empty"});
  expect_line({"tokenizer", "train", "a.txt", "--special", "<a>", "<b>", "<a>"},
              {"--special", "'<a>'", "more than once"});
  expect_line({"tokenizer", "train", "a.txt", "--special", "\xff"}, {"--special", "UTF-8"});
  ASSERT_EQ(runs.run("c", 1, {"train.steps=1"}), 0) << runs.output;
  for (const char* license : {"mit\ntags: [x]", "mit\rtags: x", "mit: x", "#", "a b", ""})
    expect_line({"publish", "c", "release", "--license", license}, {"--license"});
  expect_line({"publish", "c", "release", "--license", std::string(100000, 'x')}, {"--license"});
  EXPECT_FALSE(std::filesystem::exists(runs / "release"));
  ASSERT_EQ(runs.verb({"publish", "c", "release", "--license", "cc-by-nc-4.0"}), 0) << runs.output;
}

TEST_F(Mistakes, NumbersOfAMillionDigitsInAConfig) {
  const std::string digits(1000000, '9');
  for (const char* key : {"steps", "seed"}) {
    std::ofstream(runs / "big.yaml")
        << "model: {family: llama}\ndata: {train: [{path: train.h5}], seq_len: 16, seed: "
        << (key == std::string("seed") ? digits : "1")
        << "}\ntrain: {global_batch: 8, micro_batch: 2, steps: "
        << (key == std::string("steps") ? digits : "1") << "}\noptimizer: {lr: 1e-2}\n";
    expect_line({"config", "show", "big.yaml"}, {"big.yaml:", "64 bits"});
  }
  const std::string many(100000, '7');
  expect_line({"config", "show", "run.yaml", "train.steps=" + many}, {"train.steps=777", "64 bits"});
  expect_line({"config", "show", "run.yaml", "optimizer.lr=" + many}, {"64 bits"});
  expect_line({"config", "show", "run.yaml", "optimizer.lr=1e" + many}, {"out of range"});
  expect_line({"config", "show", "run.yaml", many}, {"key=value"});
  expect_line({many}, {"is no verb"});
  expect_line({"train", many}, {"cannot read"});
  for (const char* value : {"nan", ".nan", "inf", ".inf", "-1", "-.inf", "1e-999"})
    expect_line({"config", "show", "run.yaml", std::string("optimizer.lr=") + value},
                {"optimizer.lr", value});
  for (const char* value : {"-1", "nan", "1.5", "1e3"})
    expect_line({"config", "show", "run.yaml", std::string("data.seed=") + value},
                {"seed must be an integer", value});
}

TEST_F(Mistakes, TokenizerTrainLooksAtAllItsFilesFirst) {
  std::ofstream(runs / "a.txt") << "some text\n";
  expect_line({"tokenizer", "train", "a.txt", "none.txt"}, {"cannot read 'none.txt'"}, 1);
  expect_line({"tokenizer", "train", "a.txt", "."}, {"'.'", "not a regular file"}, 1);
}

TEST_F(Mistakes, EvalLooksAtAllItsFilesFirst) {
  ASSERT_EQ(runs.run("c", 1, {"train.steps=1"}), 0) << runs.output;
  expect_line({"eval", "c", "--seq-len", "16", "--data", "train.h5", "none.h5"}, {"none.h5"}, 1);
  std::ofstream(runs / "short.txt") << "text\n";
  expect_line({"eval", "c", "--seq-len", "16", "--data", "train.h5", "short.txt"},
              {"short.txt", "not a token file"}, 1);
}

}  // namespace
}  // namespace tessera
