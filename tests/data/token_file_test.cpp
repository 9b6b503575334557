#include "data/token_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/new_file.h"
#include "data/token_file_format.h"
#include "tests/data/temporary.h"

namespace tessera {
namespace {

TEST(TokenFile, RoundTripsTokensAndDocuments) {
  const TemporaryFolder folder;
  for (const std::int64_t vocab : {1000, 100000}) {
    const auto path = folder / "t.h5";
    const TokenFileInfo info = write_counting_file(path, 50, vocab);
    const TokenFile file(path);
    EXPECT_EQ(file.info().tokens, info.tokens);
    EXPECT_EQ(file.info().documents, 50);
    EXPECT_EQ(file.info().text_bytes, static_cast<std::uint64_t>(info.tokens) * 3);
    EXPECT_EQ(file.tokenizer_json(), "{\"a tokenizer\": 1}");
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(info.tokens));
    file.read(0, tokens);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      EXPECT_EQ(tokens[i], static_cast<std::int32_t>(i % static_cast<std::size_t>(vocab)));
    EXPECT_EQ(file.boundaries(0, 10), (std::vector<std::int64_t>{1, 9}));  // documents of 1, 8, 2, … tokens
    EXPECT_EQ(file.boundaries(1, 10), (std::vector<std::int64_t>{9}));
  }
}

TEST(TokenFile, IsHdf5) {
  const TemporaryFolder folder;
  const TokenFileInfo info = write_counting_file(folder / "t.h5", 20, 300);
  const hid_t file = H5Fopen((folder / "t.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t tokens = H5Dopen2(file, "tokens", H5P_DEFAULT);
  std::vector<int> values(static_cast<std::size_t>(info.tokens));
  ASSERT_GE(H5Dread(tokens, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  EXPECT_EQ(values[17], 17);
  H5Dclose(tokens);
  H5Fclose(file);
}

// Every byte of header and payload counts: flipping any must be noticed, or change nothing that is read.
TEST(TokenFile, DamageIsNamed) {
  const TemporaryFolder folder;
  const TokenFileInfo info = write_counting_file(folder / "t.h5", 20, 300);
  const std::string good = io::read_text(folder / "t.h5");
  const auto read_all = [&](const std::string& content) {
    std::ofstream(folder / "bad.h5", std::ios::binary) << content;
    const TokenFile file(folder / "bad.h5");
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.info().tokens));
    file.read(0, tokens);
    file.boundaries(0, file.info().tokens);
    file.tokenizer_json();
    return tokens;
  };
  const auto expected = read_all(good);
  const std::size_t header_end = good.find('\0');
  int noticed = 0;
  for (std::size_t at = 0; at < good.size(); at = at < header_end   ? at + 1
                                                  : at < (1U << 20) ? (1U << 20)
                                                                    : at + 7) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    try {
      EXPECT_EQ(read_all(bad), expected) << "byte " << at;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("bad.h5"), std::string::npos) << e.what();
      ++noticed;
    }
  }
  EXPECT_GE(noticed, static_cast<int>(header_end) - 1);
  for (const std::size_t size : {std::size_t{0}, std::size_t{10}, std::size_t{1} << 20, good.size() - 1})
    EXPECT_THROW(read_all(good.substr(0, size)), Error) << size;
  EXPECT_EQ(info.documents, 20);
}

// Headers whose hash is right but that say what cannot be.
TEST(TokenFile, ForgedHeadersAreRefused) {
  const TemporaryFolder folder;
  write_counting_file(folder / "good.h5", 20, 300);
  const std::string good = io::read_text(folder / "good.h5");
  const std::string header = token_file_format::header_of(bytes_of(good), "good.h5");
  const auto refused = [&](const char* pointer, const Json& value) {
    Json forged = Json::parse(header);
    if (value.is_discarded())
      forged = forged.flatten(), forged.erase(pointer), forged = forged.unflatten();
    else
      forged[Json::json_pointer(pointer)] = value;
    std::string block = token_file_format::user_block_of(forged.dump(), "forged.h5");
    std::ofstream(folder / "forged.h5", std::ios::binary) << block << good.substr(block.size());
    try {
      const TokenFile file(folder / "forged.h5");
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.info().tokens));
      file.read(0, tokens);
      file.boundaries(0, file.info().tokens);
      file.tokenizer_json();
      ADD_FAILURE() << "accepted " << pointer << " " << value;
    } catch (const Error& e) {
      EXPECT_PRED_FORMAT2(testing::IsSubstring, "forged.h5", std::string(e.what()));
    }
  };
  const std::uint64_t huge = std::uint64_t{1} << 63U;
  const Json absent(Json::value_t::discarded);
  for (const char* key : {"/version", "/file_bytes", "/vocab_size", "/text_bytes"}) {
    refused(key, -1);
    refused(key, "1");
    refused(key, absent);
  }
  refused("/version", 2);
  refused("/vocab_size", huge);
  refused("/vocab_size", 17);  // tokens lie beyond it
  refused("/file_bytes", huge);
  for (const std::string section : {"/tokens", "/doc_offsets", "/tokenizer"}) {
    refused(section.c_str(), 7);
    refused((section + "/offset").c_str(), huge);
    refused((section + "/offset").c_str(), good.size());
    refused((section + "/count").c_str(), huge);
    refused((section + "/count").c_str(), ~std::uint64_t{0} / 4);  // overflows times the element size
    refused((section + "/element").c_str(), 0);
    refused((section + "/element").c_str(), 3);
    refused((section + "/xxh3").c_str(), Json::array());
    refused((section + "/xxh3").c_str(), Json::array({1}));
    refused((section + "/xxh3").c_str(), Json::array({"00"}));
  }
  refused("/doc_offsets/count", 0);
  refused("/tokenizer_sha256", 5);
  refused("/end_of_text", "x");
  refused("/end_of_text", 300);
  refused("/end_of_text", -1);
}

// What happens to a file between two reads of it: touched or copied over by itself it is read on, and so it
// is when its name is gone; with other content no token of it is given.
class ChangedTokenFile : public testing::Test {
 protected:
  ChangedTokenFile() {
    write_counting_file(path, 3000, 300);
    write_counting_file(other, 3000, 299);  // as long, and other tokens
    file.emplace(path);
    read();
    // The clock that stamps files ticks every few milliseconds.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  void read() const {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file->info().tokens));
    file->read(0, tokens);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      ASSERT_EQ(tokens[i], static_cast<std::int32_t>(i % 300)) << i;
    EXPECT_EQ(file->boundaries(0, 10), (std::vector<std::int64_t>{1, 9}));
    EXPECT_EQ(file->tokenizer_json(), "{\"a tokenizer\": 1}");
  }
  // Each way of reading is refused with these words.
  void expect_refused(const std::string& words) const {
    std::vector<std::int32_t> token(1);
    const std::function<void()> ways[] = {[&] { file->read(17, token); }, [&] { file->boundaries(0, 10); },
                                          [&] { file->tokenizer_json(); }};
    for (const auto& way : ways) try {
        way();
        ADD_FAILURE() << "nothing noticed";
      } catch (const Error& e) {
        EXPECT_PRED_FORMAT2(testing::IsSubstring, "t.h5", std::string(e.what()));
        EXPECT_PRED_FORMAT2(testing::IsSubstring, words, std::string(e.what()));
      }
  }
  void overwrite(std::uint64_t at, std::string_view bytes) const {
    io::File::open_update(path).write_at(at, bytes_of(bytes));
  }

  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "t.h5", other = folder / "other.h5";
  std::optional<TokenFile> file;
};

TEST_F(ChangedTokenFile, ThatHoldsTheSameIsReadOn) {
  const std::string content = io::read_text(path);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now());
  read();
  overwrite(0, content);
  read();
  io::write_atomically(path, content);
  read();
  std::filesystem::remove(path);
  read();
  io::write_atomically(path, content);
  read();
}

TEST_F(ChangedTokenFile, ThatIsCutIsNamed) {
  for (const std::uintmax_t size :
       {std::uintmax_t{(1 << 20) + 5000}, std::uintmax_t{100}, std::uintmax_t{0}}) {
    std::filesystem::resize_file(path, size);
    expect_refused("changed while it was read");
  }
}

TEST_F(ChangedTokenFile, ThatIsRewrittenInPlaceIsNamed) {
  ASSERT_EQ(std::filesystem::file_size(path), std::filesystem::file_size(other));
  overwrite(0, io::read_text(other));
  expect_refused("holds other tokens");
}

TEST_F(ChangedTokenFile, ThatIsReplacedIsNamed) {
  std::filesystem::rename(other, path);
  expect_refused("holds other tokens");
}

// The header stays, so that only the chunk's own hash tells.
TEST_F(ChangedTokenFile, WhoseTokensChangeInPlaceIsNamed) {
  const std::string header = token_file_format::header_of(bytes_of(io::read_text(path)), "t.h5");
  overwrite(Json::parse(header).at("tokens").at("offset").get<std::uint64_t>() + 34, "\x12");
  std::vector<std::int32_t> token(1);
  try {
    file->read(17, token);
    ADD_FAILURE() << "read " << token[0];
  } catch (const Error& e) {
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "damaged (hash differs)", std::string(e.what()));
  }
}

// Boundaries are found through an index of every 512th document.
TEST(TokenFile, FindsBoundariesAmongManyDocuments) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder / "t.h5", 10, std::nullopt, "");
  std::vector<std::int64_t> begins;
  std::int64_t at = 0;
  for (int d = 0; d < 5000; ++d) {
    const std::vector<std::uint32_t> tokens(static_cast<std::size_t>(d * 31 % 5));  // some have none
    begins.push_back(at);
    at += static_cast<std::int64_t>(tokens.size());
    writer.add(tokens, 1);
  }
  writer.finish();
  const TokenFile file(folder / "t.h5");
  for (std::int64_t begin = 0; begin < at; begin += 97)
    for (const std::int64_t length : {1, 2, 50, 3000}) {
      std::vector<std::int64_t> expected;
      for (const std::int64_t b : begins)
        if (b > begin && b < begin + length && b < at && (expected.empty() || expected.back() != b))
          expected.push_back(b);
      ASSERT_EQ(file.boundaries(begin, std::min(at, begin + length)), expected) << begin << " " << length;
    }
}

TEST(TokenFile, ContentHashTellsContentsApart) {
  const TemporaryFolder folder;
  write_counting_file(folder / "a.h5", 50, 300);
  write_counting_file(folder / "same.h5", 50, 300);
  write_counting_file(folder / "other.h5", 50, 299);
  write_counting_file(folder / "longer.h5", 51, 300);
  const std::string hash = TokenFile(folder / "a.h5").content_hash();
  EXPECT_EQ(TokenFile(folder / "same.h5").content_hash(), hash);
  EXPECT_NE(TokenFile(folder / "other.h5").content_hash(), hash);
  EXPECT_NE(TokenFile(folder / "longer.h5").content_hash(), hash);
}

TEST(TokenFile, AnUnfinishedFileLeavesNothing) {
  const TemporaryFolder folder;
  {
    TokenFileWriter writer(folder / "t.h5", 10, std::nullopt, "");
    writer.add(std::vector<std::uint32_t>{1, 2, 3}, 3);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace tessera
