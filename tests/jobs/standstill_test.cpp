// Jobs that hang in storage end, saying who is behind and in what; jobs whose storage is only slow do not.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/jobs/job.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Standstills : public testing::Test {
 protected:
  Standstills() {
    EXPECT_EQ(runs.run("whole", 1), 0) << runs.output;
    reference = runs.state("whole");
  }

  // One rank with an injected fault: of several under mpirun, or alone.
  Words command(const std::string& name, int ranks, int faulty, const std::string& fault,
                const Words& overrides) const {
    Words all = runs.command(name, ranks, overrides);
    const auto program = std::find(all.begin(), all.end(), TESSERA_PROGRAM);
    const Words train(program, all.end());
    Words words;
    if (ranks > 1) {
      words.assign(all.begin() + 3, program);  // mpirun's options without its -n N
      words.insert(words.begin(), "mpirun");
    }
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank > 0) words.push_back(":");
      if (ranks > 1) words.insert(words.end(), {"-n", "1"});
      words.emplace_back("env");
      if (rank == faulty || ranks == 1) words.push_back("TESSERA_IO_FAULT=" + fault);
      words.insert(words.end(), train.begin(), train.end());
    }
    return words;
  }

  int run(const Words& words) {
    Job job(words, {}, runs / "output");
    const int code = job.wait(90);
    output = job.output();
    return code;
  }

  // The job ends with one line that names the rank and what it hangs in; nothing of it bars the same command.
  void expect_standstill(const std::string& name, int ranks, int faulty, const std::string& fault,
                         const std::string& says, Words overrides = {}) {
    SCOPED_TRACE(fault);
    overrides.insert(overrides.end(), {"train.watchdog=3", "train.storage_watchdog=4"});
    EXPECT_EQ(run(command(name, ranks, faulty, fault, overrides)), 124) << output;
    EXPECT_TRUE(eventually(15, [&] { return runs.processes().empty(); }));
    EXPECT_EQ(count(output, "no progress for "), 1) << output;
    EXPECT_EQ(count(output, fmt::format("s: rank {} is behind in {}", faulty, says)), 1) << output;
    EXPECT_EQ(count(output, " is behind "), 1) << output;
    EXPECT_EQ(count(output, "error: "), 1) << output;
    EXPECT_FALSE(fs::exists(runs / name / "tessera.lock"));
    EXPECT_EQ(runs.run(name, ranks), 0) << runs.output;
    EXPECT_EQ(runs.state(name), reference);
  }

  Runs runs;
  std::string reference;
  std::string output;
};

TEST_F(Standstills, InASave) {
  const std::string own = (runs / "alone").string();
  expect_standstill("alone", 1, 0, "write:1:HANG:step-00000006",
                    fmt::format("write of '{}/step-00000006", own));
  expect_standstill("two", 2, 1, "write:1:HANG:shard-00001", "write of '");
  expect_standstill("first", 2, 0, "fsync:1:HANG:step-00000003", "fsync of '");
}

TEST_F(Standstills, InASaveOfAThread) {
  expect_standstill("threads", 1, 1, "fsync:1:HANG:shard-00001", "fsync of '", {"--ranks", "2"});
}

TEST_F(Standstills, InTheLog) {
  expect_standstill("alone", 1, 0, "write:3:HANG:metrics.jsonl", "write of '");
  expect_standstill("two", 2, 0, "write:3:HANG:events.out", "write of '");
}

TEST_F(Standstills, InWhatARunBeginsWith) {
  expect_standstill("alone", 1, 0, "open:1:HANG:train.h5", "open of '");
  expect_standstill("two", 2, 1, "open:1:HANG:train.h5", "open of '");
  expect_standstill("pages", 2, 1, "touch:9:HANG:train.h5", "read of '");
}

TEST_F(Standstills, ASlowSaveIsNone) {
  for (const char* fault : {"fsync:1:SLOW=4:shard-00000", "write:1:SLOW=0.1:shard-00000"}) {
    const Words patience{"train.watchdog=2", "checkpoint.every=6"};
    EXPECT_EQ(run(command("alone", 1, 0, fault, patience)), 0) << output;
    EXPECT_EQ(run(command("two", 2, 0, fault, patience)), 0) << output;
    EXPECT_EQ(runs.state("two"), reference);
    for (const char* name : {"alone", "two"}) fs::remove_all(runs / name);
  }
}

// One rank's disk gives it a batch of the validation every 0.2 s; the other, long done, waits for it.
TEST_F(Standstills, ALongValidationIsNone) {
  fs::copy_file(runs / "train.h5", runs / "valid.h5");
  const Words more{"train.watchdog=2", "log.eval_every=6", "train.steps=6",
                   "data.valid=[{path: " + (runs / "valid.h5").string() + "}]"};
  EXPECT_EQ(run(command("two", 2, 1, "touch:1:SLOW=0.1:valid.h5", more)), 0) << output;
  EXPECT_EQ(count(output, "validation after step 5"), 1) << output;
}

}  // namespace
}  // namespace tessera
