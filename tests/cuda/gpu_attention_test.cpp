// cuDNN's attention on a GPU, beside the plain kernel: the same numbers within bf16's rounding, and from the
// deterministic plan the same bits twice and in slices.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "core/base/error.h"
#include "core/ops/attention.h"
#include "core/tensor/elementwise.h"
#include "tests/seed.h"

namespace tessera::cuda {
namespace {

struct Config {
  const char* name;
  std::int64_t batch, queries, keys, heads, kv_heads, head_size;
  std::int64_t window = 0;
  std::int64_t document = 0;  // mean length; 0: no masks
};

// GoogleTest shows configurations by name.
void PrintTo(const Config& config, std::ostream* out) {
  *out << config.name;
}

struct Inputs {
  std::vector<float> qkv, dout;
  std::vector<std::int32_t> doc_start;
};

Inputs draw(const Config& c) {
  std::mt19937_64 random(test_seed());
  std::normal_distribution<float> normal;
  Inputs in;
  in.qkv.resize(static_cast<std::size_t>(c.batch * c.keys * (c.heads + 2 * c.kv_heads) * c.head_size));
  in.dout.resize(static_cast<std::size_t>(c.batch * c.queries * c.heads * c.head_size));
  for (float& x : in.qkv) x = normal(random);
  for (float& x : in.dout) x = normal(random);
  if (c.document == 0) return in;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    std::int64_t start = 0;
    for (std::int64_t j = 0; j < c.keys; ++j) {
      if (static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(c.document)) == 0) start = j;
      if (j >= c.keys - c.queries) in.doc_start.push_back(static_cast<std::int32_t>(start));
    }
  }
  return in;
}

using Values = std::vector<float>;
struct Results {
  Values out, lse, dq, dk, dv;
};

Values values(const Tensor& x) {
  const Tensor wide = Tensor::empty(x.shape(), DType::f32, x.device());
  if (x.dtype() == DType::f32) {
    copy_view(x, wide);
  } else {
    convert(x, wide);
  }
  Values host(static_cast<std::size_t>(x.numel()));
  wide.to_host(host.data());
  return host;
}

// q, k and v are views of one fused buffer.
Results run(const Config& c, const char* forward, const char* backward) {
  const Inputs host = draw(c);
  const auto device = make_device(DeviceKind::cuda);
  device->wished_kernels["attention_forward"] = forward;
  device->wished_kernels["attention_backward"] = backward;
  const auto bf16 = [&](const Values& x, const Shape& shape) {
    Tensor narrow = Tensor::empty(shape, DType::bf16, *device);
    convert(Tensor::from_host(x.data(), shape, DType::f32, *device), narrow);
    return narrow;
  };
  const Tensor qkv = bf16(host.qkv, {c.batch, c.keys, c.heads + 2 * c.kv_heads, c.head_size});
  AttentionInputs in;
  in.q = qkv.narrow(2, 0, c.heads).narrow(1, c.keys - c.queries, c.queries);
  in.k = qkv.narrow(2, c.heads, c.kv_heads);
  in.v = qkv.narrow(2, c.heads + c.kv_heads, c.kv_heads);
  if (c.document > 0)
    in.doc_start = Tensor::from_host(host.doc_start.data(), {c.batch, c.queries}, DType::i32, *device);
  in.scale = 1 / std::sqrt(static_cast<float>(c.head_size));
  in.window = c.window;
  const auto like = [&](const Tensor& x) { return Tensor::empty(x.shape(), DType::bf16, *device); };
  const Tensor out = like(in.q);
  const Tensor lse = Tensor::empty({c.batch, c.heads, c.queries}, DType::f32, *device);
  attention_forward_kernel()({in, out, lse}, *device);
  const Tensor dout = bf16(host.dout, in.q.shape());
  const Tensor dq = like(in.q);
  const Tensor dk = like(in.k);
  const Tensor dv = like(in.v);
  attention_backward_kernel()({in, out, lse, dout, dq, dk, dv}, *device);
  return {values(out), values(lse), values(dq), values(dk), values(dv)};
}

// The largest difference, relative to the root mean square of what is expected.
double difference(const Values& got, const Values& expected) {
  double worst = 0;
  double squares = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!(error <= worst)) worst = error;  // NaN too
    squares += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return worst / std::sqrt(squares / static_cast<double>(expected.size()));
}

void expect_close(const Results& got, const Results& expected) {
  // Results are sums of many products whose factors were rounded to bf16's 8 bits, of tens of times their
  // root mean square where a row sees few keys.
  constexpr double bound = 0.15;
  EXPECT_LE(difference(got.lse, expected.lse), 1e-3);
  EXPECT_LE(difference(got.out, expected.out), bound);
  EXPECT_LE(difference(got.dq, expected.dq), bound);
  EXPECT_LE(difference(got.dk, expected.dk), bound);
  EXPECT_LE(difference(got.dv, expected.dv), bound);
}

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(a.lse, b.lse);
  EXPECT_EQ(a.dq, b.dq);
  EXPECT_EQ(a.dk, b.dk);
  EXPECT_EQ(a.dv, b.dv);
}

class GpuAttention : public testing::TestWithParam<Config> {};

TEST_P(GpuAttention, AgreesWithThePlainKernel) {
  const Results plain = run(GetParam(), "plain", "plain");
  expect_close(run(GetParam(), "cudnn", "cudnn"), plain);
  expect_close(run(GetParam(), "cudnn", "cudnn_any_order"), plain);
}

TEST_P(GpuAttention, GivesTheSameBitsTwice) {
  expect_same_bits(run(GetParam(), "cudnn", "cudnn"), run(GetParam(), "cudnn", "cudnn"));
}

INSTANTIATE_TEST_SUITE_P(Gpu, GpuAttention,
                         testing::Values(Config{"heads_of_128", 2, 512, 512, 8, 2, 128},
                                         Config{"heads_of_64", 2, 640, 640, 6, 6, 64},
                                         Config{"heads_of_80", 1, 256, 256, 4, 4, 80},
                                         Config{"heads_of_96", 1, 384, 384, 4, 2, 96},
                                         Config{"heads_of_192", 1, 256, 256, 2, 2, 192},
                                         Config{"heads_of_256", 1, 512, 512, 4, 1, 256},
                                         Config{"window", 2, 1024, 1024, 4, 2, 128, 200},
                                         Config{"narrow_window", 1, 512, 512, 4, 2, 64, 33},
                                         Config{"documents", 2, 1024, 1024, 4, 2, 128, 0, 150},
                                         Config{"short_documents", 2, 512, 512, 4, 2, 64, 0, 7},
                                         Config{"documents_window", 2, 1024, 1024, 4, 2, 128, 100, 150},
                                         Config{"last_queries", 2, 384, 1024, 4, 2, 128},
                                         Config{"last_queries_window", 2, 384, 1024, 4, 2, 128, 300},
                                         Config{"last_queries_documents", 2, 384, 1024, 4, 2, 64, 0, 200},
                                         Config{"odd_queries", 2, 77, 256, 4, 2, 128}),
                         [](const auto& one) { return std::string(one.param.name); });

// Rows and KV heads share no sums, so that slices must not change a bit.
TEST(GpuAttentionSlices, GiveTheBitsOfTheWhole) {
  const Config config{"", 4, 1024, 1024, 8, 4, 128, 0, 300};
  const Results whole = run(config, "cudnn", "cudnn");
  for (const char* mebibytes : {"50", "25", "12", "6"}) {
    ASSERT_EQ(setenv("TESSERA_ATTENTION_WORKSPACE", mebibytes, 1), 0);
    const Results sliced = run(config, "cudnn", "cudnn");
    unsetenv("TESSERA_ATTENTION_WORKSPACE");
    expect_same_bits(sliced, whole);
  }
}

// As the set-up of a run asks, with no memory of tensors.
TEST(GpuAttentionDryRun, RefusesWhatAStepWouldRefuse) {
  const auto backward_on = [](Device& device) {
    const auto meta = make_device(DeviceKind::meta, {.stands_for = &device});
    const auto of_heads = [&](std::int64_t heads) {
      return Tensor::empty({1, 4096, heads, 128}, DType::bf16, *meta);
    };
    const Tensor lse = Tensor::empty({1, 8, 4096}, DType::f32, *meta);
    attention_backward_kernel()({{of_heads(8), of_heads(2), of_heads(2), {}, 0.125F},
                                 of_heads(8),
                                 lse,
                                 of_heads(8),
                                 of_heads(8),
                                 of_heads(2),
                                 of_heads(2)},
                                *meta);
    EXPECT_EQ(device.memory().peak, 0U);
  };
  const auto small = make_device(DeviceKind::cuda);
  ASSERT_EQ(setenv("TESSERA_ATTENTION_WORKSPACE", "16", 1), 0);
  try {
    backward_on(*small);
    ADD_FAILURE() << "four heads' scores are 128 MiB";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("set TESSERA_ATTENTION_WORKSPACE="), std::string::npos)
        << error.what();
  }
  unsetenv("TESSERA_ATTENTION_WORKSPACE");
  const auto device = make_device(DeviceKind::cuda);
  EXPECT_NO_THROW(backward_on(*device));
}

}  // namespace
}  // namespace tessera::cuda
