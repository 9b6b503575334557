// New files: whole or not there, beside whatever else the folder holds; links, devices and pipes.
#include "core/base/new_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <thread>

#include "core/base/error.h"
#include "tests/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class NewFiles : public testing::Test {
 protected:
  void put(const std::string& name, const std::string& text) { std::ofstream(folder / name) << text; }
  std::string content(const std::string& name) { return io::read_text(folder / name); }
  std::set<std::string> names() {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder.path())) found.insert(entry.path().filename());
    return found;
  }
  std::string defect(const std::string& name) {
    try {
      io::NewFile made(folder / name);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  TemporaryFolder folder;
};

TEST_F(NewFiles, AreThereWhenWholeAndNotBefore) {
  put("a", "old");
  {
    io::NewFile made(folder / "a");
    made.file().write("half");
    EXPECT_EQ(content("a"), "old");
    EXPECT_EQ(names(), (std::set<std::string>{"a"}));  // it has no name yet
    // A library opens it by name, and what it writes is in the same file.
    std::ofstream(made.temporary_path(), std::ios::in | std::ios::out) << "HA";
    std::string begin(4, ' ');
    made.file().read_at(0, std::as_writable_bytes(std::span(begin)));
    EXPECT_EQ(begin, "HAlf");
  }
  EXPECT_EQ(content("a"), "old");
  {
    io::NewFile made(folder / "a");
    made.file().write("new");
    io::NewFile moved(std::move(made));
    moved.finish();
  }
  EXPECT_EQ(content("a"), "new");
  EXPECT_EQ(names(), (std::set<std::string>{"a"}));
}

// The names that temporary files had: those of others stay.
TEST_F(NewFiles, TakeNoNameOfOthers) {
  put("a.tmp", "theirs");
  io::write_atomically(folder / "a", "ours");
  EXPECT_EQ(content("a"), "ours");
  EXPECT_EQ(content("a.tmp"), "theirs");
}

TEST_F(NewFiles, ReplaceWhatALinkNamesAndNotTheLink) {
  fs::create_directory(folder / "far");
  put("far/target", "old");
  fs::create_symlink("far/target", folder / "link");
  fs::create_symlink(folder / "link", folder / "second");
  io::write_atomically(folder / "second", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "second"));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(content("far/target"), "new");
  fs::create_symlink("far/later", folder / "dangling");
  io::write_atomically(folder / "dangling", "made");
  EXPECT_EQ(content("far/later"), "made");
  fs::create_symlink("circle", folder / "circle");
  EXPECT_NE(defect("circle").find("circle"), std::string::npos);
  EXPECT_NE(defect("circle"), "no error");
}

TEST_F(NewFiles, WriteToPipesAndDevicesAsTheyAre) {
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::string got(16, '\0');
  std::thread reader([&] {
    const int fd = open((folder / "pipe").c_str(), O_RDONLY);
    ssize_t size = 0;
    for (ssize_t n = 1; n > 0; size += n)
      n = read(fd, got.data() + size, got.size() - static_cast<std::size_t>(size));
    got.resize(static_cast<std::size_t>(size));
    close(fd);
  });
  io::write_atomically(folder / "pipe", "through");
  reader.join();
  EXPECT_EQ(got, "through");
  EXPECT_TRUE(fs::is_fifo(folder / "pipe"));
  fs::create_symlink("/dev/null", folder / "null");
  io::write_atomically(folder / "null", "gone");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_TRUE(fs::is_symlink(folder / "null"));
  fs::create_symlink("/dev/full", folder / "full");
  try {
    io::write_atomically(folder / "full", "nowhere");
    ADD_FAILURE() << "/dev/full took it";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("No space left"), std::string::npos) << e.what();
  }
}

// An open descriptor is written to where it stands, appended and all; its file is not replaced.
TEST_F(NewFiles, WriteToOpenDescriptorsWhereTheyStand) {
  put("log", "before ");
  const int fd = open((folder / "log").c_str(), O_WRONLY | O_APPEND);
  ASSERT_GE(fd, 0);
  io::write_atomically("/dev/fd/" + std::to_string(fd), "after");
  EXPECT_EQ(content("log"), "before after");
  close(fd);
}

TEST_F(NewFiles, SayWhereTheyCannotBe) {
  EXPECT_NE(defect("none/file").find("none/file"), std::string::npos);
  EXPECT_NE(defect("none/file").find("No such file"), std::string::npos);
  fs::create_directory(folder / "folder");
  EXPECT_NE(defect("folder").find("directory"), std::string::npos) << defect("folder");
  EXPECT_NE(defect("folder/").find("directory"), std::string::npos) << defect("folder/");
  EXPECT_NE(defect(std::string(300, 'x')).find("name too long"), std::string::npos);
  EXPECT_EQ(defect(std::string(255, 'x')), "no error");
  EXPECT_EQ(names(), (std::set<std::string>{"folder"}));
}

}  // namespace
}  // namespace tessera
