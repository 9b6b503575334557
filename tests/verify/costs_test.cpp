// What a layout costs, in bytes sent and in memory, against closed forms (docs/parallelism.md).

#include <gtest/gtest.h>

#include "core/nn/model.h"
#include "core/tensor/device.h"
#include "launch/estimate.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

using Bytes = std::map<std::string, double>;

// Bytes of one step, all ranks together, by axis and collective: what two steps send more than one.
Bytes bytes_of_a_step(Subject subject, const ParallelLayout& layout, const Choices* replay = nullptr) {
  const auto total = [&](int steps) {
    subject.steps = steps;
    Bytes bytes;
    for (const auto& rank : run(subject, layout, replay).bytes_sent)
      for (const auto& [kind, sent] : rank) bytes[kind] += static_cast<double>(sent);
    return bytes;
  };
  const Bytes once = total(1);
  Bytes step = total(2);
  for (auto& [kind, bytes] : step) bytes -= once.contains(kind) ? once.at(kind) : 0;
  std::erase_if(step, [](const auto& entry) { return entry.second == 0; });
  return step;
}

// Sizes that the closed forms speak of.
struct Sizes {
  explicit Sizes(const Subject& subject)
      : layers(static_cast<double>(subject.spec.layers.size())),
        hidden(static_cast<double>(subject.spec.hidden_size)),
        tokens(static_cast<double>(subject.batch.micro_batch * subject.batch.seq_len)),
        microbatches(static_cast<double>(subject.batch.microbatches())) {
    const auto& attention = std::get<AttentionSpec>(subject.spec.layers[0][0].body);
    heads = static_cast<double>(attention.heads * attention.head_dim);
    kv_heads = static_cast<double>(attention.kv_heads * attention.head_dim);
  }
  double layers, hidden, tokens, microbatches;
  double heads = 0, kv_heads = 0;  // widths of all q, and of all k
};

// Elements of a model's parameters, each padded to a cache line: all, in layers, and those of norms and the
// like.
struct Elements {
  double all = 0, layers = 0, embedding = 0, uncut = 0;
};
Elements elements_of(const Subject& subject) {
  const auto device = make_device(DeviceKind::meta);
  const Model model(subject.spec, *device, subject.model);
  Elements e;
  for (const Parameter* p : model.parameters()) {
    const auto padded = static_cast<double>((p->shape().numel() + 15) / 16 * 16);
    e.all += padded;
    if (p->name().starts_with("layers.")) e.layers += padded;
    if (p->name().starts_with("embedding")) e.embedding += padded;
    if (p->layout().cut == Layout::Cut::none) e.uncut += padded;
  }
  return e;
}

Subject dense() {
  Subject subject = subject_of("qwen3", false, 8, 8);
  subject.spec.vocab_size = 64;
  for (LayerSpec& layer : subject.spec.layers) std::get<FfnSpec>(layer[1].body).width = 48;
  return subject;
}

ParallelLayout mesh(int pp, int dp, int cp, int tp, int zero = 0) {
  ParallelLayout layout;
  layout.mesh = {pp, dp, cp, tp, 1, 1};
  layout.zero = zero;
  return layout;
}

void expect_bytes(const Bytes& sent, const Bytes& expected) {
  for (const auto& [kind, bytes] : expected)
    EXPECT_EQ(sent.contains(kind) ? sent.at(kind) : 0, bytes) << kind;
  for (const auto& [kind, bytes] : sent) EXPECT_TRUE(expected.contains(kind)) << kind << " sent " << bytes;
}

TEST(BytesOfAStep, TensorParallel) {
  const Subject subject = dense();
  const Sizes n(subject);
  const Elements e = elements_of(subject);
  const double groups = static_cast<double>(subject.reduce_groups);
  for (const double t : {2.0, 4.0}) {
    // Forward and backward, two blocks a layer: each gathers its input and scatters its sum, and backward
    // the other way round; embedding and head have one half of that each. Then log-sum-exps of every token.
    const double moves = (4 * n.layers + 2) * n.tokens * n.hidden * (t - 1) * 4 * n.microbatches;
    const double lse = n.tokens * t * (t - 1) * 4 * n.microbatches;
    // Gradients of norms are small: every rank gets all ranks', and adds them up.
    const double uncut = e.uncut * t * (t - 1) * 4 * groups;
    expect_bytes(bytes_of_a_step(subject, mesh(1, 1, 1, static_cast<int>(t))),
                 {{"tp reduce_scatter", moves}, {"tp all_gather", moves + lse + uncut}});
  }
}

TEST(BytesOfAStep, DataParallelAndZero) {
  const Subject subject = dense();
  const Elements e = elements_of(subject);
  const double all = e.all * 4;
  for (const double d : {2.0, 4.0}) {
    const double rounds = static_cast<double>(subject.reduce_groups) / d;
    const int ranks = static_cast<int>(d);
    for (const int zero : {0, 1})
      expect_bytes(bytes_of_a_step(subject, mesh(1, ranks, 1, 1, zero)),
                   {{"dp reduce_scatter", (d - 1) * all}, {"replicas all_gather", (d - 1) * all}});
    expect_bytes(bytes_of_a_step(subject, mesh(1, ranks, 1, 1, 2)),
                 {{"dp reduce_scatter", (d - 1) * all * rounds}, {"replicas all_gather", (d - 1) * all}});
    // Values are fetched for forward and again for backward, but for the embedding's.
    expect_bytes(bytes_of_a_step(subject, mesh(1, ranks, 1, 1, 3)),
                 {{"dp reduce_scatter", (d - 1) * all * rounds},
                  {"replicas all_gather", (d - 1) * (2 * e.all - e.embedding) * 4 * rounds}});
  }
}

TEST(BytesOfAStep, Pipeline) {
  const Subject subject = dense();
  const Sizes n(subject);
  for (const double p : {2.0, 4.0})
    for (const ScheduleKind schedule :
         {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble, ScheduleKind::interleaved}) {
      ParallelLayout layout = mesh(static_cast<int>(p), 1, 1, 1);
      layout.schedule = schedule;
      layout.virtual_stages = schedule == ScheduleKind::interleaved ? 2 : 1;
      const double boundaries = p * layout.virtual_stages - 1;
      expect_bytes(bytes_of_a_step(subject, layout),
                   {{"pp send", 2 * boundaries * n.tokens * n.hidden * 4 * n.microbatches}});
    }
}

TEST(BytesOfAStep, ContextParallel) {
  Subject subject = dense();
  subject.document_mask = false;
  const Sizes n(subject);
  const Elements e = elements_of(subject);
  for (const double c : {2.0, 4.0}) {
    ParallelLayout layout = mesh(1, 1, static_cast<int>(c), 1);
    const double sums = (c - 1) * e.all * 4;
    const double of_layers = n.layers * n.tokens * 4 * n.microbatches;
    // Keys and values to all ranks, twice; their gradients back.
    expect_bytes(bytes_of_a_step(subject, layout),
                 {{"cp all_gather", 4 * (c - 1) * n.kv_heads * of_layers},
                  {"cp reduce_scatter", 2 * (c - 1) * n.kv_heads * of_layers + sums},
                  {"replicas all_gather", sums}});
    // Queries, keys, values and outputs, (c − 1) / c of each, forward and backward.
    layout.context = ContextMethod::ulysses;
    expect_bytes(bytes_of_a_step(subject, layout),
                 {{"cp all_to_all", 2 * (c - 1) / c * (2 * n.heads + 2 * n.kv_heads) * of_layers},
                  {"cp reduce_scatter", sums},
                  {"replicas all_gather", sums}});
  }
}

// Rows whose expert is elsewhere go there and come back, forward and backward; counts go ahead of them.
TEST(BytesOfAStep, ExpertParallel) {
  Subject subject = subject_of("qwen3_moe", false);
  subject.model.balance.kind = Balance::none;
  ParallelLayout layout = mesh(1, 2, 1, 1);
  layout.mesh.ep = 2;
  const Record one = run(subject, {});
  const Sizes n(subject);
  const std::int64_t microbatches = subject.batch.microbatches();
  double away = 0;
  for (const auto& [key, choices] : one.choices) {
    const std::int64_t microbatch = key.second % microbatches;
    if (key.second / microbatches != 1) continue;
    const std::int64_t rank = microbatch * 2 / microbatches;  // reduce groups lie on ranks in blocks
    for (const std::int32_t expert : choices) away += expert / 4 == rank ? 0 : 1;
  }
  const double layers = static_cast<double>(moe_layers(subject.spec));
  const double counts = layers * static_cast<double>(microbatches) * 4 * 4;  // four experts' I32
  const Bytes sent = bytes_of_a_step(subject, layout, &one.choices);
  EXPECT_EQ(sent.at("ep all_to_all"), away * n.hidden * 4 * 4 + counts);
}

// With buffers of a fixed size it does not matter where rows go: each rank sends each other one B of them.
TEST(BytesOfAStep, ExpertParallelInBoundedBuffers) {
  Subject subject = subject_of("qwen3_moe", false);
  subject.model.balance.kind = Balance::none;
  const Sizes n(subject);
  const double rows = n.tokens * 2;  // each token sees two experts
  const Choices even = even_choices(subject);
  const double layers = static_cast<double>(moe_layers(subject.spec));
  for (const double e : {2.0, 4.0})
    for (const double factor : {1.7, e}) {
      ParallelLayout layout = mesh(1, static_cast<int>(e), 1, 1);
      layout.mesh.ep = static_cast<int>(e);
      layout.expert_buffer = factor;
      const double buffer = std::min(rows, std::ceil(factor * rows / e));
      const double moves = 4 * (e - 1) * layers * n.microbatches * buffer * n.hidden * 4;
      const double counts = (e - 1) / e * layers * n.microbatches * 8 * 4;  // of eight experts, I32
      EXPECT_EQ(bytes_of_a_step(subject, layout, &even).at("ep all_to_all"), moves + counts)
          << e << ", " << factor;
    }
  // Where an expert's channels are cut, every rank of it gets all rows, and sums what ranks make of its own.
  ParallelLayout layout = mesh(1, 1, 1, 4);
  layout.mesh.ep = layout.mesh.etp = 2;
  layout.expert_buffer = 1.7;
  const double own = rows / 4;
  const double buffer = std::min(own, std::ceil(1.7 * own / 2));
  const Bytes sent = bytes_of_a_step(subject, layout, &even);
  // Four ranks share the tokens of a microbatch: each sends one other rank its buffer, then two buffers.
  EXPECT_EQ(sent.at("ep all_to_all"), 4 * layers * n.microbatches * (4 * buffer * n.hidden * 4 + 4 * 4));
  EXPECT_EQ(sent.at("etp reduce_scatter"), 4 * layers * n.microbatches * 2 * (2 * buffer) * n.hidden * 4);
}

// What an experts' layer keeps for backward grows with its buffers: a row's input and hidden sizes, gate, up
// and their product. Beside them no more than the same again is there for a while, for one layer.
TEST(MemoryOfARank, CountsBoundedBuffersOfExperts) {
  Subject subject = subject_of("qwen3_moe", false, 8, 2);
  subject.batch.micro_batch = 4;
  ParallelLayout layout = mesh(1, 4, 1, 1);
  layout.mesh.ep = 4;
  const auto estimate = [&](double factor) {
    layout.expert_buffer = factor;
    return static_cast<double>(estimate_memory(subject.spec, subject.model, layout, subject.batch,
                                               plan_reduce_groups(16, 4, 4, 4, 0)));
  };
  const Sizes n(subject);
  const double rows = n.tokens * 2;
  const double of_row = (n.hidden + 3 * 20) * 4;
  const double kept = static_cast<double>(moe_layers(subject.spec)) * 2 * rows * of_row;
  const double growth = estimate(4) - estimate(2);  // of buffers, by two shares of each of four ranks' rows
  EXPECT_GT(growth, kept);
  EXPECT_LT(growth, kept + 2 * 2 * rows * of_row);
  EXPECT_EQ(estimate(4), estimate(5)) << "a factor of ep holds any rows";
}

// Stages that hold more layers, or the head, take more: each is told by itself, and the largest is the
// estimate. A model large beside its activations, for which a rank receives nothing but hidden states.
TEST(MemoryOfARank, IsThatOfTheLargestStage) {
  Subject subject = subject_of("qwen3", false, 4, 2);
  subject.spec.hidden_size = 192;
  for (LayerSpec& layer : subject.spec.layers) std::get<FfnSpec>(layer[1].body).width = 640;
  subject.batch = {4, 1, 8};
  subject.reduce_groups = 1;
  for (const bool large_head : {false, true})
    for (const std::vector<std::int64_t>& layers : {std::vector<std::int64_t>{1, 3}, {3, 1}, {2, 2}}) {
      subject.spec.vocab_size = large_head ? 8192 : 64;
      ParallelLayout layout = mesh(2, 1, 1, 1);
      layout.layers = layers;
      const Record record = run(subject, layout);
      const auto groups = plan_reduce_groups(4, 1, 1, 1, 0);
      const auto stages = estimate_stages({subject.spec, subject.model, layout, subject.batch, groups});
      ASSERT_EQ(stages.size(), 2U);
      for (std::size_t stage = 0; stage < 2; ++stage)
        EXPECT_NEAR(static_cast<double>(stages[stage]) / static_cast<double>(record.peak_bytes[stage]), 1,
                    0.1)
            << "stage " << stage << " of layers " << layers[0] << ", " << layers[1];
      EXPECT_EQ(estimate_memory(subject.spec, subject.model, layout, subject.batch, groups),
                std::max(stages[0], stages[1]));
    }
}

// A model large beside its activations; four ranks, a microbatch each.
TEST(MemoryOfARank, FallsWithZeroAsTheClosedFormSays) {
  Subject subject = subject_of("qwen3", false, 4, 2);
  subject.spec.hidden_size = 192;
  subject.spec.vocab_size = 512;
  for (LayerSpec& layer : subject.spec.layers) std::get<FfnSpec>(layer[1].body).width = 640;
  subject.batch = {4, 1, 8};
  subject.reduce_groups = 4;
  const Elements e = elements_of(subject);
  const double all = 4 * e.all;
  const double layer = 4 * e.layers / static_cast<double>(subject.spec.layers.size());
  constexpr double ranks = 4;
  // Weights, gradients and moments; and while the largest bucket is summed, what is received for it; from
  // ZeRO 2 on its full gradient besides. With ZeRO 3 the values of two further units, when the gradients of
  // these and of the embedding are still to come.
  const double expected[] = {
      all + all + 2 * all + layer,
      all + all + 2 * all / ranks + layer,
      all + all / ranks + 2 * all / ranks + 2 * layer,
      all / ranks + all / ranks + 2 * all / ranks + 4 * layer - (2 * layer + 4 * e.embedding) / ranks,
  };
  for (int zero = 0; zero <= 3; ++zero) {
    const Record record = run(subject, mesh(1, 4, 1, 1, zero));
    const auto peak =
        static_cast<double>(*std::max_element(record.peak_bytes.begin(), record.peak_bytes.end()));
    EXPECT_NEAR(peak / expected[zero], 1, 0.05) << "zero " << zero << ": " << peak << " bytes";
  }
}

}  // namespace
}  // namespace tessera::verify
