// Seeded layout bugs of the kinds that users of such software reported: verify must catch each one and name
// the tensor, or what else it shows in first.

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "core/base/mutant.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

struct Mutant {
  const char* name;
  const char* family;
  ParallelLayout layout;
  const char* named;  // what the fault begins with
  const char* says = "";
};

ParallelLayout mesh(int pp, int dp, int cp, int tp, int ep = 1, int etp = 1, int zero = 0,
                    ContextMethod context = ContextMethod::all_gather) {
  ParallelLayout layout;
  layout.mesh = {pp, dp, cp, tp, ep, etp};
  layout.zero = zero;
  layout.context = context;
  return layout;
}

// Experts over two ranks, in buffers of a fixed size.
ParallelLayout bounded() {
  ParallelLayout layout = mesh(1, 2, 1, 1, 2);
  layout.expert_buffer = 2;
  return layout;
}

std::vector<Mutant> mutants() {
  const auto ulysses = ContextMethod::ulysses;
  return {
      {"sum_forgotten", "qwen3", mesh(1, 1, 1, 2), "embedding"},
      {"sum_over_tp_forgotten", "qwen3", mesh(1, 1, 1, 2), "final_norm.weight"},
      {"sum_over_tp_doubled", "qwen3", mesh(1, 1, 1, 2), "final_norm.weight", "2 x too large"},
      {"sum_over_dp_forgotten", "qwen3", mesh(1, 2, 1, 1, 1, 1, 1), "final_norm.weight"},
      {"mean_over_ranks", "qwen3", mesh(1, 2, 1, 1), "final_norm.weight", "2 x too small"},
      {"mean_of_local_counts", "qwen3", mesh(1, 2, 1, 1), "loss"},
      {"norm_counts_replicas", "qwen3", mesh(1, 2, 1, 1), "gradient norm"},
      {"norm_of_first_rank", "qwen3", mesh(1, 1, 1, 2, 1, 1, 0), "gradient norm"},
      {"tied_gradient_lost", "qwen3", mesh(2, 1, 1, 1), "embedding.weight"},
      {"kv_head_copied_wrongly", "qwen3", mesh(1, 1, 1, 4), "layers.0.attention.k.weight"},
      {"gather_in_wrong_order", "qwen3", mesh(1, 1, 1, 2), "layers.0.attention"},
      {"shard_off_by_one", "qwen3", mesh(1, 1, 1, 2), "embedding.weight", "held by no rank"},
      {"bias_on_every_rank", "llama", mesh(1, 1, 1, 2), "layers.0.attention"},
      {"positions_not_offset", "qwen3", mesh(1, 1, 2, 1), "layers.0.attention"},
      {"mask_lost", "qwen3", mesh(1, 1, 2, 1), "layers.0.attention"},
      {"window_off_by_one", "qwen3", mesh(1, 1, 2, 1), "layers.4.attention"},
      {"kv_gradient_not_summed", "qwen3", mesh(1, 1, 2, 1), "layers.7.attention.k_norm.weight"},
      {"shared_head_overwritten", "qwen3", mesh(1, 1, 4, 1, 1, 1, 0, ulysses),
       "layers.7.attention.k_norm.weight"},
      {"vocabulary_sums_not_shared", "qwen3", mesh(1, 1, 1, 2), "loss"},
      {"stale_activation", "qwen3", mesh(2, 1, 1, 1), "layers.4.attention"},
      {"gradient_overwritten", "qwen3", mesh(2, 1, 1, 1), "final_norm.weight"},
      {"owned_rows_off_by_one", "qwen3", mesh(1, 2, 1, 1, 1, 1, 2), "head.weight"},
      {"new_weights_not_published", "qwen3", mesh(1, 2, 1, 1, 1, 1, 1), "embedding"},
      {"decay_on_norms", "qwen3", mesh(1, 2, 1, 1, 1, 1, 2), "layers.0.attention_norm.weight"},
      {"expert_rows_to_wrong_places", "qwen3_moe", mesh(1, 2, 1, 1, 2), "layers.0.ffn"},
      {"bounded_rows_to_wrong_places", "qwen3_moe", bounded(), "layers.0.ffn"},
      {"expert_sum_doubled", "qwen3_moe", mesh(1, 1, 1, 2, 1, 2), "layers.0.ffn"},
      {"experts_not_reduced", "qwen3_moe", mesh(1, 2, 1, 1), "layers.7.ffn.experts"},
      {"balance_scaled_by_ranks", "qwen3_moe", mesh(1, 2, 1, 1), "balance term"},
      {"counts_not_summed", "qwen3_moe", mesh(1, 1, 1, 2), "balance term"},
  };
}

class Mutants : public testing::TestWithParam<Mutant> {};

TEST_P(Mutants, AreCaughtAndNamed) {
  const Mutant& seeded = GetParam();
  const bool tied = std::string(seeded.name) == "tied_gradient_lost";
  Subject subject = subject_of(seeded.family, tied);
  // Two microbatches a group, so that gradients accumulate.
  subject.reduce_groups = 4;
  const Record one = run(subject, {});
  ASSERT_FALSE(compare(subject, seeded.layout, one, run(subject, seeded.layout, &one.choices)).fault);
  ::setenv("TESSERA_MUTANT", seeded.name, 1);
  const Comparison result = compare(subject, seeded.layout, one, run(subject, seeded.layout, &one.choices));
  ::unsetenv("TESSERA_MUTANT");
  ASSERT_TRUE(result.fault) << seeded.name << " went unseen: " << verdict(result);
  EXPECT_TRUE(result.fault->tensor.starts_with(seeded.named)) << verdict(result);
  EXPECT_NE(result.fault->what.find(seeded.says), std::string::npos) << verdict(result);
  std::printf("| `%s` | %s | %s |\n", seeded.name, text(seeded.layout).c_str(), verdict(result).c_str());
}

// The names of faults stand in a binary that can switch them on, and in no other.
TEST(Release, ContainsNoMutant) {
  const auto content = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string binary = content(TESSERA_BINARY_DIR "/launch/tessera");
  const std::string with = content(TESSERA_BINARY_DIR "/tests/verify/tests_verify_mutants");
  ASSERT_GT(binary.size(), 1000000U);
  EXPECT_EQ(binary.find("TESSERA_MUTANT"), std::string::npos);
  EXPECT_NE(with.find("TESSERA_MUTANT"), std::string::npos);
  EXPECT_GE(mutants().size(), 20U);
}

INSTANTIATE_TEST_SUITE_P(Verify, Mutants, testing::ValuesIn(mutants()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace tessera::verify
