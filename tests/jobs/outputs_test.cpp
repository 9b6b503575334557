// Where verbs write: what they replace and what never, streams, and standard output that cannot be written.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint/safetensors.h"
#include "data/token_file.h"
#include "tests/jobs/job.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class OutputsOfVerbs : public testing::Test {
 protected:
  OutputsOfVerbs() {
    std::ofstream text(runs / "corpus.txt");
    for (int i = 0; i < 2000; ++i) text << "line " << i * i << " of a corpus\n" << (i % 3 == 0 ? "\n" : "");
  }
  std::string content(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(runs / name, std::ios::binary).rdbuf();
    return text.str();
  }
  void put(const std::string& name, const std::string& text) {
    std::ofstream(runs / name, std::ios::binary) << text;
  }
  void expect_done(const Words& arguments) { EXPECT_EQ(runs.verb(arguments), 0) << runs.output; }
  // Refused in one line that holds all the words, and the file stays as it is.
  void expect_kept(const std::string& file, Words arguments, const Words& words) {
    const std::string before = content(file);
    EXPECT_EQ(runs.verb(arguments), 2) << runs.output;
    EXPECT_EQ(count(runs.output, "\n"), 1) << runs.output;
    for (const std::string& word : words) EXPECT_NE(runs.output.find(word), std::string::npos) << runs.output;
    EXPECT_EQ(content(file) == before, true) << file << " has changed";
  }
  // The same with --force: inputs are never written.
  void expect_never(const std::string& file, Words arguments) {
    expect_kept(file, arguments, {"is the same file as", "which is read"});
    arguments.push_back("--force");
    expect_kept(file, arguments, {"is the same file as", "which is read"});
  }
  std::vector<std::int32_t> tokens_of(const std::string& name) {
    const TokenFile file(runs / name);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.info().tokens));
    file.read(0, tokens);
    return tokens;
  }
  static Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  void train_tokenizer() {
    ASSERT_EQ(
        runs.verb({"tokenizer", "train", "--vocab-size", "290", "--out", "tokenizer.json", "corpus.txt"}), 0)
        << runs.output;
  }
  // A checkpoint in "c" and its release in "release".
  void make_release() {
    ASSERT_EQ(runs.run("c", 1, {"train.steps=1"}), 0) << runs.output;
    expect_done({"publish", "c", "release"});
  }

  Runs runs;
  const Words inspect{"data", "inspect", "run.yaml", "--steps", "0:2", "--out"};
};

TEST_F(OutputsOfVerbs, PrepareNeverWritesWhatItReads) {
  train_tokenizer();
  fs::create_symlink("corpus.txt", runs / "link.h5");
  fs::create_hard_link(runs / "corpus.txt", runs / "hard.h5");
  const Words prepare{"data",       "prepare",          "--tokenizer", "tokenizer.json", "--documents",
                      "blank-line", "--valid-fraction", "0.2",         "corpus.txt",     "--out"};
  for (const char* out : {"corpus.txt", "./corpus.txt", "link.h5", "hard.h5"})
    expect_never("corpus.txt", with(prepare, {out}));
  expect_never("tokenizer.json", with(prepare, {"tokenizer.json"}));
  expect_never("tokenizer_config.json", with(prepare, {"tokenizer_config.json"}));
  fs::create_symlink("corpus.txt", runs / "a.valid.h5");
  expect_never("corpus.txt", with(prepare, {"a.h5"}));
  EXPECT_FALSE(fs::exists(runs / "a.h5"));
  fs::create_symlink("b.h5", runs / "b.valid.h5");  // both into one
  expect_kept("b.h5", with(prepare, {"b.h5"}), {"another file of this command"});

  put("mine.h5", "not a token file");
  expect_kept("mine.h5", with(prepare, {"mine.h5"}),
              {"mine.h5", "not a token file of tessera data prepare", "--force"});
  put("d.valid.h5", "not a token file");
  expect_kept("d.valid.h5", with(prepare, {"d.h5"}), {"d.valid.h5", "--force"});
  expect_done(with(prepare, {"mine.h5", "--force"}));
  put("empty.h5", "");  // as mktemp leaves it
  put("empty.h5.tmp", "theirs");
  for (int i = 0; i < 2; ++i) expect_done(with(prepare, {"empty.h5"}));  // the second time over its own
  EXPECT_EQ(content("empty.h5.tmp"), "theirs");
  EXPECT_EQ(tokens_of("empty.h5"), tokens_of("mine.h5"));
  EXPECT_GT(tokens_of("empty.h5").size(), 1000U);
  for (const char* stream : {"-", "/dev/stdout", "/dev/null"})
    expect_kept("corpus.txt", with(prepare, {stream}), {stream, "front to back"});
  expect_kept("corpus.txt", with(prepare, {""}), {"--out is empty"});
  expect_kept("corpus.txt", with(prepare, {"c_log/"}), {"--out", "c_log/"});
}

TEST_F(OutputsOfVerbs, InspectNeverWritesWhatItReads) {
  expect_never("train.h5", with(inspect, {"train.h5"}));
  expect_never("run.yaml", with(inspect, {"run.yaml"}));
  put("mine", "text");
  expect_kept("mine", with(inspect, {"mine"}), {"mine", "not a file of tessera data inspect", "--force"});
  for (int i = 0; i < 2; ++i) expect_done(with(inspect, {"a.safetensors"}));
  expect_done(with(inspect, {"mine", "--force"}));
  const std::string all = content("a.safetensors");
  EXPECT_EQ(content("mine") == all, true);
  // As a stream it is the same, wherever standard output goes.
  const std::string verb = "$tessera data inspect run.yaml --steps 0:2 --out ";
  ASSERT_EQ(runs.shell(verb + "- 2>/dev/null | cat > piped"), 0) << runs.output;
  ASSERT_EQ(runs.shell("printf before > logged; " + verb + "/dev/stdout 2>/dev/null >> logged"), 0)
      << runs.output;
  ASSERT_EQ(runs.shell("mkfifo fifo; cat fifo > read & " + verb + "fifo && wait"), 0) << runs.output;
  EXPECT_EQ(content("piped") == all, true);
  EXPECT_EQ(content("logged") == "before" + all, true);
  EXPECT_EQ(content("read") == all, true);
  EXPECT_TRUE(fs::is_fifo(runs / "fifo"));
  ASSERT_EQ(runs.shell(verb + "/dev/full"), 1) << runs.output;
  EXPECT_NE(runs.output.find("'/dev/full': No space left"), std::string::npos) << runs.output;
}

TEST_F(OutputsOfVerbs, TokenizerTrainReplacesItsOwnAlone) {
  const Words train{"tokenizer", "train", "--vocab-size", "290", "corpus.txt", "--out"};
  expect_never("corpus.txt", with(train, {"corpus.txt"}));
  for (int i = 0; i < 2; ++i) expect_done(with(train, {"tokenizer.json"}));
  const std::string ours = content("tokenizer.json");
  // By the same vocabulary, written by another program.
  put("tokenizer.json", nlohmann::ordered_json::parse(ours).dump(2));
  expect_kept("tokenizer.json", with(train, {"tokenizer.json"}), {"tokenizer.json", "--force"});
  put("tokenizer.json", ours);
  put("tokenizer_config.json", "{\"eos_token\": \"<|end|>\", \"chat_template\": \"theirs\"}");
  expect_kept("tokenizer_config.json", with(train, {"tokenizer.json"}), {"tokenizer_config.json", "--force"});
  expect_kept("tokenizer_config.json", with(train, {"other.json"}), {"tokenizer_config.json", "--force"});
  EXPECT_FALSE(fs::exists(runs / "other.json"));
  expect_done(with(train, {"tokenizer.json", "--force"}));
  EXPECT_NE(content("tokenizer_config.json").find("end_of_text"), std::string::npos);
  expect_kept("tokenizer_config.json", with(train, {"tokenizer_config.json"}), {"tokenizer_config.json"});
  ASSERT_EQ(runs.shell("$tessera tokenizer train --vocab-size 290 --out - corpus.txt 2>/dev/null > streamed"),
            0);
  EXPECT_EQ(content("streamed") == ours, true);
}

TEST_F(OutputsOfVerbs, LogitsNeverReplaceWeights) {
  make_release();
  expect_done(with(inspect, {"batches"}));
  {
    SafetensorsWriter writer(runs / "tokens", {{"tokens", DType::i32, {1, 4}}});
    writer.write("tokens", 0, std::vector<std::byte>(16));
    writer.finish();
  }
  const Words logits{"logits", "release", "--tokens", "tokens", "--out"};
  expect_never("release/model.safetensors", with(logits, {"release/model.safetensors"}));
  expect_never("tokens", with(logits, {"tokens"}));
  expect_kept("batches", with(logits, {"batches"}), {"batches", "--force"});  // Tessera's, of another kind
  const Words from_checkpoint{"logits", "c", "--tokens", "tokens", "--out"};
  expect_never("c/step-00000001/shard-00000-of-00001.h5",
               with(from_checkpoint, {"c/step-00000001/shard-00000-of-00001.h5"}));
  for (int i = 0; i < 2; ++i) expect_done(with(logits, {"l.safetensors"}));
  ASSERT_EQ(runs.shell("$tessera logits release --tokens tokens --out - 2>/dev/null | cmp - l.safetensors"),
            0)
      << runs.output;
}

TEST_F(OutputsOfVerbs, PublishReplacesReleasesOfItsOwnAlone) {
  make_release();
  fs::create_directory(runs / "release.tmp");
  put("release.tmp/theirs", "stays");
  const std::string weights = content("release/model.safetensors");
  ASSERT_EQ(runs.run("d", 1, {"train.steps=2"}), 0) << runs.output;
  expect_done({"publish", "d", "release"});  // over its own
  EXPECT_EQ(content("release/model.safetensors") == weights, false);
  EXPECT_EQ(content("release.tmp/theirs"), "stays");
  put("release/README.md", content("release/README.md") + "by hand\n");
  expect_kept("release/README.md", {"publish", "c", "release"}, {"already holds something", "--force"});
  fs::create_directory(runs / "mine");
  put("mine/a.txt", "text");
  expect_kept("mine/a.txt", {"publish", "c", "mine"}, {"already holds something", "--force"});
  expect_done({"publish", "c", "mine", "--force"});
  EXPECT_FALSE(fs::exists(runs / "mine/a.txt"));
  fs::create_directories(runs / "deep/folder");
  put("deep/folder/a.txt", "text");
  expect_kept("deep/folder/a.txt", {"publish", "c", "deep", "--force"}, {"more than files"});
  expect_kept("run.yaml", {"publish", "c", "run.yaml", "--force"}, {"run.yaml", "no directory"});
  // What is read is not replaced.
  expect_kept("mine/model.safetensors", {"publish", "mine", "mine", "--force"}, {"is read"});
  expect_kept("c/step-00000001/manifest.json", {"publish", "c/step-00000001", "c/step-00000001", "--force"},
              {"is read"});
  for (const auto& entry : fs::directory_iterator(runs / "."))
    EXPECT_EQ(entry.path().filename().string().find("publishing"), std::string::npos) << entry.path();
}

TEST_F(OutputsOfVerbs, ImportReplacesImportsAlone) {
  make_release();
  for (int i = 0; i < 2; ++i) expect_done({"import", "release", "imported"});
  expect_kept("c/step-00000001/manifest.json", {"import", "release", "c"}, {"'c' already holds checkpoints"});
  expect_kept("c/step-00000001/manifest.json", {"import", "release", "c", "--force"},
              {"'c' already holds checkpoints"});
  expect_kept("run.yaml", {"import", "release", "run.yaml"}, {"run.yaml", "no directory"});
  fs::create_directory(runs / "mine");
  put("mine/a.txt", "text");
  expect_kept("mine/a.txt", {"import", "release", "mine"}, {"already holds something", "--force"});
  expect_done({"import", "release", "mine", "--force"});
  EXPECT_EQ(content("mine/a.txt"), "text");
}

// What cannot be written is told before the work, here before inputs are even looked for.
TEST_F(OutputsOfVerbs, ThatCannotBeAreToldFirst) {
  for (const Words& verb : std::vector<Words>{{"data", "prepare", "--tokenizer", "none.json", "none.txt"},
                                              {"tokenizer", "train", "none.txt"},
                                              {"logits", "none", "--tokens", "none"}})
    expect_kept("run.yaml", with(verb, {"--out", "no/folder/x"}), {"--out", "no/folder/x", "No such file"});
  expect_kept("run.yaml", with(inspect, {"no/folder/x"}), {"--out", "no/folder/x", "No such file"});
  EXPECT_EQ(runs.verb({"publish", "none", "run.yaml"}), 2) << runs.output;
  EXPECT_NE(runs.output.find("run.yaml"), std::string::npos) << runs.output;
}

TEST_F(OutputsOfVerbs, BenchKernelsKeepsOtherFiles) {
  const Words bench{"bench",      "kernels",     "--only=add", "--milliseconds=0.1",
                    "--rounds=1", "--threads=1", "--json"};
  expect_kept("run.yaml", with(bench, {"run.yaml"}), {"run.yaml", "--force"});
  for (int i = 0; i < 2; ++i) expect_done(with(bench, {"rows.jsonl"}));
  EXPECT_EQ(count(content("rows.jsonl"), "\n"), 1);
}

// Every verb that prints, with standard output on a full disk, closed, and read by nobody.
TEST_F(OutputsOfVerbs, StandardOutputThatCannotBeWrittenIsAFailure) {
  train_tokenizer();
  make_release();
  const std::string quick = " run.yaml log.every=1 train.steps=3 log.dir=log";
  for (const std::string& verb :
       std::vector<std::string>{"--version",
                                "--help",
                                "train --help",
                                "tokenizer train --help",
                                "config schema",
                                "config show run.yaml",
                                "tokenizer encode tokenizer.json < corpus.txt",
                                "tokenizer encode --lines tokenizer.json < corpus.txt",
                                "tokenizer decode tokenizer.json < ids",
                                "data bigram train.h5 train.h5",
                                "eval release --data train.h5",
                                "generate release --prompt-ids 1,2 --max-tokens 3",
                                "checkpoint inspect c",
                                "publish c published",
                                "import release imported",
                                "verify run.yaml --ranks 2",
                                "bench tokenizer tokenizer.json corpus.txt",
                                "bench matmul --hidden-size 16 --threads 1",
                                "launch run.yaml -n 2 --print",
                                "bench kernels --only=add --milliseconds=0.1 --rounds=1 --threads=1",
                                "data inspect run.yaml --steps 0:1 --out -",
                                "tokenizer train --vocab-size 290 --out - corpus.txt"}) {
    put("ids", "1 2 3\n4 5\n");
    for (const char* where : {">/dev/full", ">&-"}) {
      EXPECT_EQ(runs.shell("$tessera " + verb + " " + where), 1) << verb << where << "\n" << runs.output;
      EXPECT_EQ(count(runs.output, "error: "), 1) << verb << where << "\n" << runs.output;
      EXPECT_EQ(runs.output.substr(runs.output.rfind("error: ")).find("\n") + 1,
                runs.output.size() - runs.output.rfind("error: "))
          << verb << where << "\n"
          << runs.output;
    }
    // The reader is gone before the first byte: silence, but for what is told on the way.
    EXPECT_EQ(runs.shell("{ sleep 0.1; $tessera " + verb + " 2>told; echo $? > code; } | :"), 0)
        << runs.output;
    EXPECT_EQ(content("code"), "141\n") << verb << "\n" << content("told");
    EXPECT_EQ(content("told").find("error"), std::string::npos) << verb << "\n" << content("told");
  }
  // Training goes on, tells of it, and fails in the end.
  EXPECT_EQ(runs.shell("$tessera train" + quick + " checkpoint.dir=t >/dev/full"), 1) << runs.output;
  EXPECT_NE(runs.output.find("training goes on"), std::string::npos) << runs.output;
  EXPECT_TRUE(fs::exists(runs / "t/step-00000003/manifest.json"));
  // Where nobody reads any more it saves and stops.
  EXPECT_EQ(runs.shell("{ sleep 0.1; $tessera train" + quick +
                       " train.steps=100000 checkpoint.dir=u 2>told; echo $? > code; } | :"),
            0);
  EXPECT_EQ(content("code"), "75\n") << content("told");
  EXPECT_FALSE(fs::is_empty(runs / "u"));
}

// A descriptor that is closed is not taken by the next file that is opened.
TEST_F(OutputsOfVerbs, ClosedDescriptorsMixNothingUp) {
  train_tokenizer();
  ASSERT_EQ(runs.shell("$tessera data prepare --tokenizer tokenizer.json --out a.h5 corpus.txt <&- >&- 2>&-"),
            0);
  ASSERT_EQ(runs.shell("$tessera data prepare --tokenizer tokenizer.json --out b.h5 corpus.txt"), 0)
      << runs.output;
  EXPECT_EQ(tokens_of("a.h5"), tokens_of("b.h5"));
  ASSERT_EQ(runs.shell("$tessera tokenizer encode tokenizer.json <&-"), 1);
  EXPECT_NE(runs.output.find("cannot read standard input"), std::string::npos) << runs.output;
}

}  // namespace
}  // namespace tessera
