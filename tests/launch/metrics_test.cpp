// The log files: JSON lines that survive kills and resumes, event records bit by bit, and faults that kill
// nothing.
#include "launch/metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "launch/events.h"
#include "launch/version.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() {
    folder_ = fs::path(testing::TempDir()) / ("metrics." + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  ~MetricsTest() override { fs::remove_all(folder_); }

  std::vector<Json> lines(const std::string& name = "metrics.jsonl") const {
    std::ifstream file(folder_ / name);
    std::vector<Json> out;
    for (std::string line; std::getline(file, line);) out.push_back(parse_json(line, name));
    return out;
  }
  static StepMetrics at(std::int64_t step) {
    StepMetrics m;
    m.step = step;
    m.loss = 5;
    return m;
  }

  fs::path folder_;
  RunHeader header_{R"({"train":{"steps":9}})", "abc", 2};
};

TEST_F(MetricsTest, LinesBeginWithTheRun) {
  Metrics metrics(folder_, header_, 0);
  metrics.step(at(0));
  const auto all = lines();  // while it is open: every line is flushed
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["version"], version);
  EXPECT_EQ(all[0]["config"]["train"]["steps"], 9);
  EXPECT_EQ(all[0]["tokenizer_sha256"], "abc");
  for (const char* key : {"step", "tokens", "loss", "grad_norm", "lr", "step_s", "tokens_per_s", "tflops",
                          "mem_bytes", "data_wait_s", "skipped", "eta_s"}) {
    EXPECT_TRUE(all[1].contains(key)) << key;
  }
}

TEST_F(MetricsTest, ResumeDropsWhatIsRunAgain) {
  {
    Metrics metrics(folder_, header_, 0);
    for (int step = 0; step < 5; ++step) metrics.step(at(step));
    metrics.validation({.step = 4, .tokens = 10, .loss = 4, .seconds = 1});
  }
  std::ofstream(folder_ / "metrics.jsonl", std::ios::app) << R"({"step": 5, "lo)";  // killed while writing
  Metrics metrics(folder_, header_, 3);
  metrics.step(at(3));
  std::vector<std::int64_t> steps;
  for (const Json& line : lines()) {
    if (line.contains("step")) steps.push_back(line["step"]);
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(lines().at(4)["first_step"], 3);
}

TEST_F(MetricsTest, AFreshRunKeepsTheOldFile) {
  { Metrics(folder_, header_, 0).step(at(7)); }
  Metrics metrics(folder_, header_, 0);
  EXPECT_EQ(lines().size(), 1u);
  EXPECT_EQ(lines("metrics.1.jsonl").size(), 2u);
}

TEST_F(MetricsTest, NumbersThatAreNotFiniteStayJson) {
  Metrics metrics(folder_, header_, 0);
  StepMetrics m = at(0);
  m.loss = NAN;
  m.grad_norm = INFINITY;
  metrics.step(m);
  EXPECT_EQ(lines().at(1)["loss"], "nan");
  EXPECT_EQ(lines().at(1)["grad_norm"], "inf");
}

TEST_F(MetricsTest, AFaultOfTheLogKillsNothing) {
  fs::create_directories(folder_.parent_path());
  std::ofstream(folder_) << "a file where the folder should be";
  Metrics metrics(folder_, header_, 0);
  metrics.step(at(0));
  Metrics silent("", header_, 0);
  silent.step(at(0));
}

TEST_F(MetricsTest, ProgressLineReads) {
  StepMetrics m = at(120);
  m.grad_norm = 0.91;
  m.lr = 8.1e-4;
  m.tokens_per_s = 3210;
  m.tflops = 0.21;
  m.mem_bytes = 430 << 20;
  m.eta_s = 123;
  EXPECT_EQ(Metrics::progress_line(m, 300),
            "step 120/300  loss 5.0000  grad_norm 0.910  lr 8.10e-04  3210 tokens/s  0.21 TFLOP/s  memory "
            "430.00 MiB  "
            "eta 2:03");
}

TEST(Events, Crc32cOfKnownBytes) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8A9136AAu);  // RFC 3720, appendix B.4
}

template <class T>
T value_at(const std::string& bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

TEST_F(MetricsTest, EventFilesAreRecords) {
  fs::create_directories(folder_);
  EventWriter writer(folder_);
  writer.scalars(300, {{"train/loss", 2.5}});
  const std::string bytes = io::read_text(writer.path());
  std::vector<std::string> payloads;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = value_at<std::uint64_t>(bytes, at);
    payloads.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(bytes.substr(at, length + 16), event_record(payloads.back()));
    at += length + 16;
  }
  ASSERT_EQ(payloads.size(), 2u);
  EXPECT_EQ(payloads[0][0], '\x09');  // field 1, 64 bits: the wall time
  EXPECT_EQ(payloads[0].substr(9), std::string("\x10\0\x1a\x0d", 4) + "brain.Event:2");
  float loss = 2.5f;
  const std::string value("\x0a\x0atrain/loss\x15" + std::string(reinterpret_cast<const char*>(&loss), 4));
  EXPECT_EQ(payloads[1].substr(9), "\x10\xac\x02\x2a\x13\x0a\x11" + value);
}

}  // namespace
}  // namespace tessera
