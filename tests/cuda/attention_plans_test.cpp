// Every attention plan that is used, built for an H100 without one: cuDNN supports it, and it needs the
// workspace that slices are cut by. Prints the table. That plans are right takes a GPU: tests_gpu.

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "core/base/error.h"
#include "kernels/cuda/native/attention_planner.h"

namespace tessera::cuda {
namespace {

// Published figures of an H100 SXM, in the form in which cuDNN describes a GPU.
constexpr const char* h100 = R"({
  "deviceVer": 900, "deviceName": "NVIDIA H100 80GB HBM3", "cudaDeviceId": 0, "driverVer": 13000,
  "multiProcessorCount": 132, "warpSize": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
  "maxCtasPerSM": 32, "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152,
  "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024, "l2CacheSize": 52428800,
  "totalGlobalMem": 85017755648, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000,
  "maxBlockSize": [1024, 1024, 64], "maxGridSize": [2147483647, 65535, 65535], "supportCoopLaunch": 1,
  "pciDeviceId": 0, "isTccDriver": 0})";

struct Config {
  const char* name;
  std::int64_t batch, queries, keys, heads, kv_heads, head_size;
  std::int64_t window = 0;
  bool documents = false;
};

constexpr Config configs[] = {
    {"heads_of_128", 1, 4096, 4096, 32, 8, 128},
    {"heads_of_64", 1, 4096, 4096, 32, 8, 64},
    {"heads_of_80", 1, 4096, 4096, 32, 32, 80},
    {"heads_of_96", 1, 4096, 4096, 32, 32, 96},
    {"heads_of_192", 1, 4096, 4096, 16, 16, 192},
    {"heads_of_256", 1, 4096, 4096, 16, 4, 256},
    {"one_KV_head", 1, 4096, 4096, 16, 1, 128},
    {"a_batch", 4, 4096, 4096, 32, 8, 128},
    {"window", 1, 4096, 4096, 32, 8, 128, 1024},
    {"window_heads_of_64", 1, 4096, 4096, 32, 8, 64, 128},
    {"documents", 1, 4096, 4096, 32, 8, 128, 0, true},
    {"documents_heads_of_64", 1, 4096, 4096, 32, 8, 64, 0, true},
    {"documents_heads_of_256", 1, 4096, 4096, 16, 4, 256, 0, true},
    {"documents_window", 1, 4096, 4096, 32, 8, 128, 1024, true},
    {"last_queries", 1, 1024, 4096, 32, 8, 128},
    {"last_queries_window", 1, 1024, 4096, 32, 8, 128, 512},
    {"last_queries_documents", 1, 1024, 4096, 32, 8, 128, 0, true},
    {"last_queries_both", 1, 1024, 4096, 32, 8, 128, 512, true},
    {"odd_queries", 2, 77, 256, 8, 2, 64},
    {"short", 2, 128, 128, 4, 4, 64},
    {"length_16k", 1, 16384, 16384, 32, 8, 128},
    {"length_32k", 1, 32768, 32768, 32, 8, 128},
};

// q, k and v in one fused buffer, as a model's projection leaves them.
AttentionProblem problem_of(const Config& s, bool backward, bool deterministic) {
  AttentionProblem n;
  n.backward = backward;
  n.deterministic = deterministic;
  n.batch = s.batch;
  n.queries = s.queries;
  n.keys = s.keys;
  n.heads = s.heads;
  n.kv_heads = s.kv_heads;
  n.head_size = s.head_size;
  n.window = s.window;
  n.documents = s.documents;
  n.document_row = s.documents ? s.queries : 0;
  n.document_position = s.documents ? 1 : 0;
  n.scale = 0.125F;
  const std::int64_t width = (s.heads + 2 * s.kv_heads) * s.head_size;
  n.q = {s.queries * width, width, s.head_size};
  n.k = n.v = {s.keys * width, width, s.head_size};
  n.out = {s.queries * s.heads * s.head_size, s.heads * s.head_size, s.head_size};
  n.gradients = {s.keys * s.kv_heads * s.head_size, s.kv_heads * s.head_size, s.head_size};
  return n;
}

// GoogleTest shows configurations by name.
void PrintTo(const Config& config, std::ostream* out) {
  *out << config.name;
}

class AttentionPlans : public testing::Test {
 protected:
  void SetUp() override {
    // Loaded first, it is the driver that cuDNN finds.
    ASSERT_NE(dlopen(TESSERA_STUB_DRIVER, RTLD_NOW | RTLD_GLOBAL), nullptr) << dlerror();
    if (dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL) == nullptr) GTEST_SKIP() << dlerror();
    cudnn = std::make_unique<Cudnn>(90, h100);
  }
  std::unique_ptr<Cudnn> cudnn;
};

class AttentionPlanOf : public AttentionPlans, public testing::WithParamInterface<Config> {};

TEST_P(AttentionPlanOf, IsSupportedAndNeedsWhatSlicesAreCutBy) {
  const Config& s = GetParam();
  const auto bytes = [&](bool backward, bool deterministic) {
    return static_cast<double>(cudnn->plan(problem_of(s, backward, deterministic))->workspace_bytes());
  };
  const double forward = bytes(false, true);
  const double any = bytes(true, false);
  const double fixed = bytes(true, true);
  std::printf(
      "cuDNN %s, %s: workspace in MiB of forward %.1f, backward in any order %.1f, in a fixed one %.1f\n",
      cudnn->version().c_str(), s.name, forward / 0x1p20, any / 0x1p20, fixed / 0x1p20);
  EXPECT_LE(forward, 4096);
  const double scores = 2.0 * static_cast<double>(s.batch * s.heads * s.queries * s.keys);
  EXPECT_GE(fixed, scores) << "fit_slices() counts on it";
  // Queries rounded up to a tile; dK and dV of every query head; the sums over dout · out.
  const std::int64_t tiles = (s.queries + 127) / 128;
  const double rounded = scores * static_cast<double>(128 * tiles) / static_cast<double>(s.queries);
  const double widened = 4.0 * static_cast<double>(s.batch * s.heads * s.keys * s.head_size);
  const double sums = 4.0 * static_cast<double>(s.batch * s.heads * s.queries);
  EXPECT_LE(fixed, rounded + widened + sums + 0x1p20);
  EXPECT_LT(any, fixed + 0x1p20);
}

INSTANTIATE_TEST_SUITE_P(, AttentionPlanOf, testing::ValuesIn(configs),
                         [](const auto& one) { return std::string(one.param.name); });

TEST_F(AttentionPlans, OfALongSequenceFitInSlices) {
  const AttentionProblem whole = problem_of({"", 4, 8192, 8192, 32, 8, 128}, true, true);
  constexpr std::size_t budget = std::size_t{1} << 30;
  const auto bytes = [&](const AttentionProblem& n) { return cudnn->plan(n)->workspace_bytes(); };
  const auto slices = fit_slices(whole, budget, bytes);
  ASSERT_TRUE(slices.has_value());
  EXPECT_EQ(slices->rows, 1);
  EXPECT_EQ(slices->kv_heads, 1);  // of two, the scores alone are 1 GiB
  EXPECT_LE(bytes(slice_of(whole, *slices)), budget);
}

// What the dry run before a training run meets.
TEST_F(AttentionPlans, WhoseSmallestSliceDoesNotFitSayWhatWould) {
  const AttentionProblem fixed = problem_of({"", 2, 4096, 4096, 32, 8, 128}, true, true);
  const std::size_t needed =
      (cudnn->plan(slice_of(fixed, smallest_slices(fixed)))->workspace_bytes() + (1U << 20) - 1) >> 20;
  ASSERT_GE(needed, 128U);  // the scores of four heads
  const auto refusal = [](const AttentionProblem& n, std::size_t mebibytes) -> std::string {
    AttentionPlanner plans(std::make_unique<Cudnn>(90, h100), mebibytes << 20);
    try {
      EXPECT_LE(plans.of(n).plan->workspace_bytes(), mebibytes << 20);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
    return "";
  };
  const std::string expected = fmt::format(
      "attention backward 2x4096x4096, heads 32/8 of 128: its smallest slice, 1 of 8 KV heads of one row, "
      "needs {0} MiB of workspace, {1} are allowed: set TESSERA_ATTENTION_WORKSPACE={0}, or `kernels: "
      "{{attention_backward: cudnn_any_order}}` if bits may differ from run to run",
      needed, needed - 1);
  EXPECT_EQ(refusal(fixed, needed - 1), expected);
  EXPECT_NE(refusal(fixed, 1).find(", 1 are allowed"), std::string::npos);
  EXPECT_EQ(refusal(fixed, needed), "");
  AttentionProblem any = fixed;
  any.deterministic = false;
  EXPECT_EQ(refusal(any, needed - 1), "");
  EXPECT_EQ(refusal(any, 1).find("any_order"), std::string::npos) << "it is what was asked for";
  // Four heads' scores of a long sequence are 32 GiB.
  const AttentionProblem far = problem_of({"", 1, 65536, 65536, 32, 8, 128}, true, true);
  EXPECT_NE(refusal(far, 4096).find("set TESSERA_ATTENTION_WORKSPACE=3"), std::string::npos)
      << refusal(far, 4096);
}

TEST_F(AttentionPlans, AreRefusedInOneLine) {
  const auto refusal = [&](const AttentionProblem& n) -> std::string {
    try {
      cudnn->plan(n);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  AttentionProblem wide = problem_of({"", 1, 128, 128, 4, 4, 264}, true, true);
  EXPECT_NE(refusal(wide).find("planning attention backward 1x128x128, heads 4/4 of 264"), std::string::npos)
      << refusal(wide);
  AttentionProblem crooked = problem_of({"", 1, 128, 128, 4, 4, 64}, false, true);
  crooked.k.position += 1;
  EXPECT_NE(refusal(crooked).find("16-byte alignment"), std::string::npos) << refusal(crooked);
  EXPECT_EQ(refusal(crooked).find('\n'), std::string::npos);
}

}  // namespace
}  // namespace tessera::cuda
