#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "core/base/error.h"
#include "core/base/io.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = fs::temp_directory_path() / fmt::format("tessera-{}-{}", info->name(), ::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  static std::string length_field(std::uint64_t length) {
    std::string text(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) text[i] = static_cast<char>(length >> (8 * i) & 0xff);
    return text;
  }
  fs::path put(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return dir_ / name;
  }
  // The message of opening a file with this header and so many bytes behind it; "" if it opens.
  std::string defect(const std::string& header, std::size_t buffer = 8) {
    return defect_of_file(length_field(header.size()) + header + std::string(buffer, 'x'));
  }
  std::string defect_of_file(const std::string& bytes) {
    return message([&] { SafetensorsFile::open(put("t.safetensors", bytes)); });
  }
  static std::string message(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      EXPECT_LT(std::string(e.what()).size(), 1000U);
      return e.what();
    }
    return "";
  }

  fs::path dir_;
};

#define EXPECT_DEFECT(action, part) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, action)

TEST_F(Safetensors, RefusesWhatIsNoFileOfTheFormat) {
  EXPECT_DEFECT(defect_of_file(""), "0 bytes are too few");
  EXPECT_DEFECT(defect_of_file("1234567"), "too few");
  EXPECT_DEFECT(defect_of_file(length_field(0) + "{}"), "length is 0");
  EXPECT_DEFECT(defect_of_file(length_field(100'000'001) + "{}"), "exceeds");
  EXPECT_DEFECT(defect_of_file(length_field(50) + "{}"), "does not fit");
  EXPECT_DEFECT(defect_of_file(length_field(~std::uint64_t{0}) + "{}"), "exceeds");
  EXPECT_DEFECT(message([&] { SafetensorsFile::open(dir_); }), "not a regular file");
  const fs::path fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_DEFECT(message([&] { SafetensorsFile::open(fifo); }), "not a regular file");
  EXPECT_DEFECT(message([&] { SafetensorsFile::open(dir_ / "absent"); }), "absent");
}

TEST_F(Safetensors, RefusesBrokenHeaders) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(defect(good), "");
  EXPECT_EQ(defect(" " + good), "");
  EXPECT_EQ(defect(good + "   "), "");
  EXPECT_DEFECT(defect("[1,2]"), "instead of an object");
  EXPECT_DEFECT(defect("nonsense"), "invalid JSON");
  EXPECT_DEFECT(defect("{\"\xff\xfe\":1}"), "invalid JSON");
  EXPECT_DEFECT(defect(good + "{}"), "invalid JSON");
  EXPECT_DEFECT(defect(good + std::string(3, '\0')), "NUL");
  EXPECT_DEFECT(defect(std::string(100'000, '[')), "instead of an object");
  EXPECT_DEFECT(defect(R"({"a":)" + std::string(100'000, '{')), "");
  EXPECT_NE(defect(R"({"a":{"b":)" + std::string(100'000, '[')), "");
}

TEST_F(Safetensors, RefusesBrokenTensors) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const std::string a = R"("a":)" + entry("F32", "[2]", "[0,8]");
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return defect(R"({"a":)" + entry(dtype, shape, offsets) + "}");
  };
  EXPECT_DEFECT(defect("{" + a + "," + a + "}"), "tensor 'a' twice");
  EXPECT_DEFECT(defect(R"({"__metadata__":{},"__metadata__":{},)" + a + "}"), "duplicate '__metadata__'");
  EXPECT_DEFECT(defect(R"({"__metadata__":{"x":"1","x":"2"},)" + a + "}"), "'x' twice");
  EXPECT_DEFECT(defect(R"({"__metadata__":{"x":1},)" + a + "}"), "instead of text");
  EXPECT_DEFECT(defect(R"({"__metadata__":"x",)" + a + "}"), "__metadata__");
  EXPECT_DEFECT(one("F33", "[2]", "[0,8]"), "'F33' is not known");
  EXPECT_DEFECT(one("F32", "[4294967296,4294967296,4294967296]", "[0,8]"), "overflows");
  EXPECT_DEFECT(one("F32", "[-2]", "[0,8]"), "negative");
  EXPECT_DEFECT(one("F32", "[2.0]", "[0,8]"), "2.0");
  EXPECT_DEFECT(one("F32", "[2e0]", "[0,8]"), "2e0");
  EXPECT_DEFECT(one("F32", "[9007199254740993]", "[0,8]"), "2^53");
  EXPECT_DEFECT(one("F32", "[36893488147419103232]", "[0,8]"), "'shape' holds");
  EXPECT_DEFECT(one("F32", "[2]", "[8,0]"), "after end");
  EXPECT_DEFECT(one("F32", "[4]", "[0,16]"), "truncated");
  EXPECT_DEFECT(one("F32", "[1]", "[0,4]"), "last 4 bytes");
  EXPECT_DEFECT(one("F32", "[1]", "[4,8]"), "belong to none");
  EXPECT_DEFECT(one("F32", "[3]", "[0,8]"), "need 12 bytes");
  EXPECT_DEFECT(one("F32", "[2]", "[0]"), "two numbers");
  EXPECT_DEFECT(one("F32", "[2]", "[0,8,9]"), "more than two");
  EXPECT_DEFECT(one("F32", "[2]", "8"), "data_offsets");
  EXPECT_DEFECT(one("F32", "[[2]]", "[0,8]"), "an array");
  EXPECT_DEFECT(one("F32", "null", "[0,8]"), "null");
  EXPECT_DEFECT(one("F4", "[3]", "[0,8]"), "whole bytes");
  EXPECT_DEFECT(defect(R"({"a":{"dtype":"F32","shape":[2]}})"), "data_offsets");
  EXPECT_DEFECT(defect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":1}})"), "extra");
  EXPECT_DEFECT(defect("{" + a + R"(,"b":)" + entry("F32", "[1]", "[4,8]") + "}"), "overlaps");
  EXPECT_DEFECT(defect(R"({"a\u0000b":)" + entry("F32", "[2]", "[0,8]") + "}"), "control");
  EXPECT_DEFECT(defect("{\"" + std::string(1 << 20, 'n') + "\":" + entry("F32", "[2]", "[0,8]") + "}"),
                "longer than");
  std::string deep = "[1";
  for (int i = 0; i < 1'000'000; ++i) deep += ",1";
  EXPECT_DEFECT(one("U8", deep + "]", "[0,8]"), "dimensions");
  std::string many = "{";
  for (int i = 0; i < 200'000; ++i)
    many += fmt::format("{}\"t{}\":{}", i == 0 ? "" : ",", i, entry("F32", "[2]", "[0,8]"));
  EXPECT_DEFECT(defect(many + "}"), "overlaps");
}

TEST_F(Safetensors, ReadsScalarsEmptyTensorsAndOddNames) {
  const std::string header = R"({"/../etc":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                             R"("none":{"dtype":"I64","shape":[0,7],"data_offsets":[4,4]},)"
                             R"("half":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})";
  const fs::path path =
      put("t.safetensors", length_field(header.size()) + header + std::string("\0\0\x80\x3f\0\x3c\0\xc0", 8));
  const SafetensorsFile file = SafetensorsFile::open(path);
  float one = 0;
  file.read_floats(file.at("/../etc"), 0, {&one, 1});
  EXPECT_EQ(one, 1.0F);
  EXPECT_EQ(file.at("none").numel(), 0);
  std::vector<float> half(2);
  file.read_floats(file.at("half"), 0, half);
  EXPECT_EQ(half, (std::vector<float>{1, -2}));
  EXPECT_DEFECT(message([&] { file.at("nine"); }), "no tensor 'nine'");
  fs::resize_file(path, 20);
  EXPECT_NE(message([&] { file.read_floats(file.at("half"), 0, half); }), "");
}

TEST_F(Safetensors, WritesSortedPaddedAndAtomically) {
  const fs::path path = dir_ / "w.safetensors";
  {
    SafetensorsWriter writer(path, {{"z", DType::f32, {2}}, {"a", DType::bf16, {2}}, {"b", DType::f32, {}}});
    EXPECT_EQ(writer.tensors()[0].name, "b");
    EXPECT_EQ(writer.tensors()[2].name, "a");
    EXPECT_NE(message([&] { writer.finish(); }), "");
  }
  EXPECT_TRUE(fs::is_empty(dir_));
  const std::vector<float> two{1.5F, -3};
  {
    SafetensorsWriter writer(path, {{"z", DType::f32, {2}}, {"a", DType::bf16, {2}}, {"b", DType::f32, {}}});
    writer.write_floats("z", 0, two);
    writer.write_floats("a", 0, two);
    writer.write_floats("b", 0, std::span(two).first(1));
    EXPECT_FALSE(fs::exists(path));
    writer.finish();
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  for (const char* name : {"z", "a"}) {
    std::vector<float> back(2);
    file.read_floats(file.at(name), 0, back);
    EXPECT_EQ(back, two);
  }
  const std::string bytes = io::read_text(path);
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_EQ(bytes[8], '{');
}

class SafetensorsIndex : public Safetensors {
 protected:
  void SetUp() override {
    Safetensors::SetUp();
    shard("one.safetensors", {"a", "b"});
    shard("two.safetensors", {"c"});
  }
  void shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<SafetensorsTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::f32, {1}});
    SafetensorsWriter writer(dir_ / file, tensors);
    const float zero = 0;
    for (const std::string& name : names) writer.write_floats(name, 0, {&zero, 1});
    writer.finish();
  }
  std::string defect_of_index(const std::string& json) {
    put("model.safetensors.index.json", json);
    return message([&] { SafetensorsRelease::open(dir_); });
  }
  std::string with_shard(const std::string& shard) {
    return defect_of_index(R"({"weight_map":{"a":)" + shard + "}}");
  }
};

TEST_F(SafetensorsIndex, ReadsWhatIsWhole) {
  EXPECT_EQ(defect_of_index(R"({"metadata":{"total_size":12},"weight_map":
                {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})"),
            "");
  EXPECT_EQ(SafetensorsRelease::open(dir_).names(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(SafetensorsIndex, RefusesPathsThatLeaveTheDirectory) {
  for (const char* shard :
       {R"("../one.safetensors")", R"("/etc/one.safetensors")", R"("a/../../one.safetensors")",
        R"("..\\one.safetensors")", R"("https://host/one.safetensors")", R"("")",
        R"("one\u0000.safetensors")", R"("model.safetensors.index.json")"})
    EXPECT_DEFECT(with_shard(shard), "is not the name of") << shard;
  EXPECT_DEFECT(with_shard("7"), "not text");
  const fs::path outside = dir_.string() + "-outside.safetensors";
  fs::copy_file(dir_ / "one.safetensors", outside);
  fs::create_symlink(outside, dir_ / "link.safetensors");
  EXPECT_DEFECT(with_shard(R"("link.safetensors")"), "out of the directory");
  fs::remove(outside);
}

TEST_F(SafetensorsIndex, RefusesContradictions) {
  EXPECT_DEFECT(with_shard(R"("three.safetensors")"), "missing");
  EXPECT_DEFECT(defect_of_index("[]"), "weight_map");
  EXPECT_DEFECT(defect_of_index(R"({"weight_map":{}})"), "weight_map");
  EXPECT_DEFECT(defect_of_index(R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})"),
                "'c' is not in its shard");
  EXPECT_DEFECT(defect_of_index(R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})"),
                "'b', which the index does not list");
  EXPECT_DEFECT(defect_of_index(R"({"metadata":{"total_size":13},"weight_map":
                     {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})"),
                "total_size");
  EXPECT_DEFECT(defect_of_index(R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})"),
                "duplicate");
  shard("two.safetensors", {"a", "c"});
  EXPECT_DEFECT(defect_of_index(R"({"weight_map":
                     {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})"),
                "in two shards");
  std::string many = R"({"weight_map":{"x":"one.safetensors")";
  for (int i = 0; i < 1'000'000; ++i) many += fmt::format(",\"t{}\":\"one.safetensors\"", i);
  EXPECT_DEFECT(defect_of_index(many + "}}"), "not in its shard");
}

TEST(SafetensorsPlan, CutsGreedilyInOrder) {
  const auto tensor = [](const char* name, std::int64_t n) {
    return SafetensorsTensor{name, DType::f32, {n}};
  };
  const auto shards = plan_shards({tensor("a", 3), tensor("b", 1), tensor("c", 1), tensor("d", 9)}, 16);
  ASSERT_EQ(shards.size(), 3U);
  EXPECT_EQ(shards[0].tensors.size(), 2U);
  EXPECT_EQ(shards[1].file, "model-00002-of-00003.safetensors");
  EXPECT_EQ(plan_shards({tensor("a", 3)}, 16)[0].file, "model.safetensors");
}

}  // namespace
}  // namespace tessera
