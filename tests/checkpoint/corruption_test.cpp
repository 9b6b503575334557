// Damaged checkpoints: always noticed, the file named, and the one before taken with one line about each bad
// one.

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "tests/checkpoint/saved.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Corruption : public testing::Test {
 protected:
  Corruption() : random_(seed_ = std::random_device{}()) {
    save_small(folder.path(), 2);
    path = save_small(folder.path(), 4);
    older = content(open_checkpoint(checkpoint_path(folder.path(), 2)));
    newer = content(open_checkpoint(path, true));
    fs::copy(path, folder / "pristine", fs::copy_options::recursive);
  }
  void restore() const {
    fs::remove_all(path);
    fs::copy(folder / "pristine", path, fs::copy_options::recursive);
  }
  static void write(const fs::path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }
  // The newest is refused with a line that holds `word`, and the older one is taken.
  void expect_passed_over(const std::string& what, const std::string& word) {
    std::vector<std::string> lines;
    const auto found = open_newest(folder.path(), [&](const std::string& line) { lines.push_back(line); });
    ASSERT_TRUE(found) << what << ", seed " << seed_;
    EXPECT_EQ(content(*found), older) << what << ", seed " << seed_;
    ASSERT_EQ(lines.size(), 1U) << what << ", seed " << seed_;
    EXPECT_NE(lines[0].find("step-00000004"), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find(word), std::string::npos) << what << ": " << lines[0];
    EXPECT_EQ(lines[0].find('\n'), std::string::npos) << lines[0];
    restore();
  }

  TemporaryFolder folder;
  fs::path path;
  std::string older, newer;
  unsigned seed_;
  std::mt19937 random_;
  const std::vector<std::string> files{"manifest.json", "shard-00000-of-00001.h5", "tokenizer.json"};
};

TEST_F(Corruption, FlippedBits) {
  for (const std::string& file : files) {
    const std::string good = io::read_text(path / file);
    for (int i = 0; i < 60; ++i) {
      std::string bad = good;
      const std::size_t at = random_() % bad.size();
      bad[at] = static_cast<char>(bad[at] ^ (1 << random_() % 8));
      write(path / file, bad);
      expect_passed_over("bit of byte " + std::to_string(at) + " of " + file, file);
    }
  }
}

TEST_F(Corruption, TruncatedGrownAndZeroed) {
  for (const std::string& file : files) {
    const std::string good = io::read_text(path / file);
    for (const std::size_t size : {std::size_t{0}, good.size() / 2, good.size() - 1}) {
      write(path / file, good.substr(0, size));
      // Without its manifest a checkpoint does not count; an empty one is a bad one.
      expect_passed_over(file + " cut to " + std::to_string(size), file);
    }
    write(path / file, good + "x");
    expect_passed_over(file + " grown", file);
    std::string zeroed = good;
    std::fill(zeroed.begin() + static_cast<std::ptrdiff_t>(good.size() / 2), zeroed.end(), '\0');
    write(path / file, zeroed);
    expect_passed_over(file + " half zeroed", file);
  }
}

TEST_F(Corruption, MissingExtraMixedAndLinked) {
  for (const std::string& file : {files[1], files[2]}) {
    fs::remove(path / file);
    expect_passed_over(file + " missing", file);
    fs::copy_file(folder / "step-00000002" / file, path / file, fs::copy_options::overwrite_existing);
    if (file != "tokenizer.json") expect_passed_over(file + " of another step", file);
    restore();
  }
  for (const std::string& file : files) {
    fs::remove(path / file);
    fs::create_symlink(folder / "pristine" / file, path / file);
    expect_passed_over(file + " is a link", file);
    fs::remove(path / file);
    fs::create_directory(path / file);
    expect_passed_over(file + " is a folder", file);
  }
  fs::copy_file(path / files[1], path / "shard-00001-of-00002.h5");
  expect_passed_over("a shard too many", "shard-00001-of-00002.h5");
  fs::copy_file(folder / "step-00000002/manifest.json", path / "manifest.json",
                fs::copy_options::overwrite_existing);
  expect_passed_over("the manifest of another step", "manifest.json");
  fs::remove(path / "manifest.json");
  expect_passed_over("no manifest", "manifest.json");
}

// Manifests with a hash that holds, but that lie about the shard.
TEST_F(Corruption, WrongManifestsWithGoodHashes) {
  const std::string good = io::read_text(path / "manifest.json");
  const auto body_begin = good.find("\"checkpoint\": ") + 14;
  const std::string body = good.substr(body_begin, good.size() - body_begin - 2);
  const auto rewrite = [&](const std::function<void(Json&)>& change) {
    Json value = Json::parse(body);
    change(value);
    const std::string text = value.dump();
    write(path / "manifest.json",
          "{\"xxh3\": \"" + xxh3_128_hex(bytes_of(text)) + "\", \"checkpoint\": " + text + "}\n");
  };
  const auto slab = [](Json& v, std::size_t i) -> Json& { return v["shards"][0]["slabs"][i]; };
  struct Case {
    const char* name;
    std::function<void(Json&)> change;
  };
  const Json negative = -1;
  const std::vector<Case> cases{
      {"dtype", [&](Json& v) { slab(v, 0)["dtype"] = "BF16"; }},
      {"same-sized dtype", [&](Json& v) { slab(v, 0)["dtype"] = "I32"; }},
      {"unknown dtype", [&](Json& v) { slab(v, 0)["dtype"] = "F99"; }},
      {"shape turned",
       [&](Json& v) {
         slab(v, 0)["shape"] = {11, 30}, slab(v, 0)["extent"] = {11, 30};
       }},
      {"negative shape", [&](Json& v) { slab(v, 0)["shape"][0] = -30; }},
      {"fractional shape", [&](Json& v) { slab(v, 0)["shape"][0] = 30.5; }},
      {"huge shape",
       [&](Json& v) {
         slab(v, 0)["shape"] = {std::int64_t{1} << 62, std::int64_t{1} << 62};
       }},
      {"nine dimensions", [&](Json& v) { slab(v, 0)["shape"] = {1, 1, 1, 1, 1, 1, 1, 1, 1}; }},
      {"extent beyond the shape", [&](Json& v) { slab(v, 0)["extent"][0] = 31; }},
      {"offset beyond the shape", [&](Json& v) { slab(v, 0)["offset"][0] = 1; }},
      {"byte beyond the file", [&](Json& v) { slab(v, 0)["byte"] = 1 << 30; }},
      {"byte of 2^63", [&](Json& v) { slab(v, 0)["byte"] = std::uint64_t{1} << 63; }},
      {"two tensors swapped", [&](Json& v) { std::swap(slab(v, 0)["name"], slab(v, 3)["name"]); }},
      {"two states swapped", [&](Json& v) { std::swap(slab(v, 1)["state"], slab(v, 2)["state"]); }},
      {"a hash too few", [&](Json& v) { slab(v, 0)["xxh3"] = Json::array(); }},
      {"a short hash", [&](Json& v) { slab(v, 0)["xxh3"][0] = "abc"; }},
      {"a slab twice", [&](Json& v) { v["shards"][0]["slabs"].push_back(slab(v, 0)); }},
      {"a slab left out of a tensor's", [&](Json& v) { slab(v, 0)["shape"][0] = 60; }},
      {"a shard twice", [&](Json& v) { v["shards"].push_back(v["shards"][0]); }},
      {"shards of another type", [&](Json& v) { v["shards"] = 5; }},
      {"a path upwards", [&](Json& v) { v["shards"][0]["file"] = "../shard.h5"; }},
      {"an absolute path", [&](Json& v) { v["shards"][0]["file"] = "/etc/passwd"; }},
      {"a hidden file", [&](Json& v) { v["shards"][0]["file"] = ".shard"; }},
      {"an empty name", [&](Json& v) { v["shards"][0]["file"] = ""; }},
      {"a file upwards", [&](Json& v) { v["files"]["../x"] = v["files"]["notes.txt"]; }},
      {"itself as a file", [&](Json& v) { v["files"]["manifest.json"] = v["files"]["notes.txt"]; }},
      {"step -1", [&](Json& v) { v["step"] = negative; }},
      {"step 2^63", [&](Json& v) { v["step"] = std::uint64_t{1} << 63; }},
      {"step of another", [&](Json& v) { v["step"] = 3; }},
      {"meta of another type", [&](Json& v) { v["meta"] = Json::array(); }},
      {"an unknown field", [&](Json& v) { v["more"] = 1; }},
      {"a field missing", [&](Json& v) { v.erase("meta"); }},
      {"a newer version", [&](Json& v) { v["version"] = 2; }},
      {"a version of text", [&](Json& v) { v["version"] = "1"; }},
  };
  for (const Case& one : cases) {
    rewrite(one.change);
    expect_passed_over(one.name, "step-00000004/");
  }
  rewrite([](Json&) {});
  EXPECT_EQ(content(*open_newest(folder.path(), {})), newer);  // the rewriting itself does no harm
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  write(path / "manifest.json",
        "{\"xxh3\": \"" + xxh3_128_hex(bytes_of(deep)) + "\", \"checkpoint\": " + deep + "}\n");
  expect_passed_over("depth", "manifest.json");
}

}  // namespace
}  // namespace tessera
