// What stays and what goes: old checkpoints, left-overs, links, and folders that are not ours.

#include "checkpoint/retention.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/store.h"
#include "core/base/error.h"
#include "tests/checkpoint/saved.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::vector<std::int64_t> steps(const fs::path& dir) {
  std::vector<std::int64_t> all;
  for (const CheckpointEntry& entry : list_checkpoints(dir)) all.push_back(entry.step);
  return all;
}

TEST(Retention, KeepsTheNewestGoodOnes) {
  const TemporaryFolder folder;
  for (const int step : {1, 2, 3, 4, 5}) save_small(folder.path(), step);
  apply_retention(folder.path(), 0, 5);
  EXPECT_EQ(steps(folder.path()).size(), 5U);
  fs::resize_file(checkpoint_path(folder.path(), 4) / "shard-00000-of-00001.h5",
                  100);  // a bad one does not count
  apply_retention(folder.path(), 2, 5);
  EXPECT_EQ(steps(folder.path()), (std::vector<std::int64_t>{3, 4, 5}));
  apply_retention(folder.path(), 1, 99);  // the checkpoint just written is not there: nothing goes
  EXPECT_EQ(steps(folder.path()), (std::vector<std::int64_t>{3, 4, 5}));
  apply_retention(folder.path(), 1, 5);
  EXPECT_EQ(steps(folder.path()), (std::vector<std::int64_t>{5}));
}

void damage(const fs::path& checkpoint) {
  std::fstream shard(checkpoint / "shard-00000-of-00001.h5", std::ios::in | std::ios::out | std::ios::binary);
  shard.seekp(-1, std::ios::end);
  shard.put('\x55');
}

TEST(Retention, LinksAreReadButNeitherCountedNorRemovedThrough) {
  const TemporaryFolder folder;
  const fs::path archive = save_small(folder / "archive", 3);
  const std::string kept = content(open_checkpoint(archive, true));
  const fs::path run = folder / "run";
  for (const int step : {1, 2}) save_small(run, step);
  fs::create_directory_symlink(archive, run / "step-00000003");
  EXPECT_EQ(content(*open_newest(run, {})), kept);
  apply_retention(run, 1, 3);  // what was just saved is not a link
  EXPECT_EQ(steps(run), (std::vector<std::int64_t>{1, 2, 3}));
  save_small(run, 4);
  apply_retention(run, 1, 4);
  EXPECT_EQ(steps(run), (std::vector<std::int64_t>{3, 4}));
  EXPECT_FALSE(give_up_oldest(run));
  save_small(run, 3);  // a save of that step takes the link's place
  EXPECT_FALSE(fs::is_symlink(run / "step-00000003"));
  fs::create_directory_symlink(archive, run / "step-00000002.replaced");
  fs::create_directory_symlink(archive, run / "step-00000005.partial");
  fs::create_directory_symlink(folder.path(), run / "step-00000006");
  clear_leftovers(run);
  EXPECT_EQ(content(open_checkpoint(archive, true)), kept);
}

TEST(Retention, ARemovalOrSaveThatWasCutShortIsClearedAndSaid) {
  const TemporaryFolder folder;
  std::vector<std::string> lines;
  const auto tell = [&](const std::string& line) { lines.push_back(line); };
  save_small(folder.path(), 4);
  for (const char* rest : {"manifest.json", "tokenizer.json", "shard-00000-of-00001.h5"})
    for (const char* suffix : {"", ".partial"}) {
      const fs::path cut = folder / (std::string("step-00000006") + suffix);
      if (*suffix == 0 && std::string(rest) != "shard-00000-of-00001.h5") continue;  // shards go last
      fs::create_directory(cut);
      fs::copy(folder / "step-00000004" / rest, cut / rest);
      lines.clear();
      clear_leftovers(folder.path(), tell);
      ASSERT_EQ(lines.size(), 1U);
      EXPECT_EQ(lines[0], "cleared '" + cut.string() + "', which a save or removal that was cut short left");
      EXPECT_FALSE(fs::exists(cut));
    }
  lines.clear();
  clear_leftovers(folder.path(), tell);
  EXPECT_TRUE(lines.empty());
}

TEST(Retention, AFolderOfOthersStaysWhateverItsName) {
  const TemporaryFolder folder;
  save_small(folder.path(), 4);
  const auto make = [&](const std::string& name, const std::string& file) {
    fs::create_directories((folder / name / file).parent_path());
    std::ofstream(folder / name / file) << "mine";
  };
  make("step-00000100", "thesis.tex");
  make("step-00000101", "README.md");  // a name that a save may write, but alone
  make("step-00000102.partial", "shard-00000-of-00001.h5");
  make("step-00000102.partial", "notes/today.md");
  make("step-00000103.replaced", "photo.jpg");
  std::vector<std::string> lines;
  clear_leftovers(folder.path(), [&](const std::string& line) { lines.push_back(line); });
  EXPECT_EQ(lines.size(), 4U);
  for (const std::string& line : lines) EXPECT_NE(line.find("is no checkpoint"), std::string::npos) << line;
  // A save that would write into one of them, or replace it, is refused, and leaves it.
  for (const int step : {100, 101, 102}) EXPECT_THROW(save_small(folder.path(), step), Error) << step;
  for (const char* file :
       {"step-00000100/thesis.tex", "step-00000101/README.md", "step-00000102.partial/notes/today.md",
        "step-00000102.partial/shard-00000-of-00001.h5", "step-00000103.replaced/photo.jpg"})
    EXPECT_TRUE(fs::exists(folder / file)) << file;
  // Those in whose place a newer checkpoint would stand are named to who opens the newest.
  lines.clear();
  const auto newest = open_newest(folder.path(), [&](const std::string& line) { lines.push_back(line); });
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step(), 4);
  EXPECT_EQ(lines.size(), 3U);
  for (const std::string& line : lines) EXPECT_NE(line.find("no manifest.json"), std::string::npos) << line;
}

TEST(Retention, GivesUpTheOldestButNeverTheLastGoodOne) {
  const TemporaryFolder folder;
  for (const int step : {1, 2, 3, 4}) save_small(folder.path(), step);
  damage(folder / "step-00000004");
  EXPECT_EQ(give_up_oldest(folder.path()), 1);
  EXPECT_EQ(give_up_oldest(folder.path()), 2);
  EXPECT_EQ(give_up_oldest(folder.path()), std::nullopt) << "4 opens, but is damaged";
  EXPECT_EQ(steps(folder.path()), (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(give_up_oldest(folder / "nowhere"), std::nullopt);
}

}  // namespace
}  // namespace tessera
