// Seeded layout bugs of the kinds that users of such software reported: verify must catch each one and name
// the tensor, or what else it shows in first.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "core/base/mutant.h"
#include "tests/verify/configs.h"
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
      {"positions_not_offset", "qwen3", mesh(1, 1, 2, 1), "batch", "positions"},
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

// Faults of layouts that a config asks for, found as `verify` finds them: on a small copy of it, all that it
// runs.
struct ConfigMutant {
  const char* name;
  const char* family;
  int ranks;
  std::vector<std::string> overrides;
  const char* named;
  const char* says = "";
  bool bf16 = false;
};

using Keys = std::vector<std::string>;

std::vector<ConfigMutant> config_mutants() {
  const Keys dp2{"parallel.dp=2"};
  const Keys zero1{"parallel.dp=2", "parallel.zero=1"};
  const Keys zero2{"parallel.dp=2", "parallel.zero=2"};
  const Keys tp2{"parallel.tp=2"};
  const Keys cp2{"parallel.cp=2"};
  const Keys pp2{"parallel.pp=2"};
  const Keys ep2{"parallel.dp=2", "parallel.ep=2"};
  const Keys bounded{"parallel.dp=2", "parallel.ep=2", "parallel.expert_buffer=1.25"};
  const Keys odd{"parallel.dp=2", "parallel.reduce_groups=6"};
  const Keys biased{"parallel.tp=2", "experts.balance=bias", "train.recompute=full"};
  return {
      // Reading, counting, and what stages are given.
      {"ranks_read_the_same", "qwen3", 2, dp2, "data", "it gets microbatch"},
      {"last_stage_reads_late", "qwen3", 2, pp2, "data", "on rank 1: it gets microbatch 0"},
      {"targets_counted_by_each_rank", "qwen3", 2, dp2, "count of targets"},
      {"targets_counted_over_all_ranks", "qwen3", 4, {"parallel.dp=2", "parallel.tp=2"}, "count of targets"},
      {"targets_of_first_piece", "qwen3", 2, cp2, "batch", "targets"},
      // Import, save and resume.
      {"import_ignores_column", "qwen3", 2, tp2, "import: layers.0.attention.o.weight", "from 0 on"},
      {"import_ignores_row", "qwen3", 2, zero1, "import: ", "those from 0 on"},
      {"moments_mixed_up", "qwen3", 2, dp2, "save: second moment of"},
      {"step_repeated_after_resume", "qwen3", 2, dp2, "resume", "it goes on at step 1"},
      {"moments_a_row_early", "qwen3", 2, zero1, "resume: first moment of", "rows from"},
      {"columns_not_resumed", "qwen3", 2, tp2, "resume: layers.0.attention.o.weight", "columns"},
      {"biases_not_resumed", "qwen3_moe", 2, biased, "resume: layers.1.ffn.router.bias"},
      {"resumed_weights_not_published", "qwen3", 2, zero1, "resume", "the step after it"},
      {"updates_not_counted_on", "qwen3", 2, dp2, "the step after resuming: "},
      // Validation.
      {"mean_of_means", "qwen3", 2, dp2, "validation", "its loss"},
      {"validation_forgets_cp", "qwen3", 2, cp2, "validation", "its loss"},
      {"validation_counts_copies", "qwen3", 2, dp2, "validation", "tokens"},
      {"validation_shares_overlap", "qwen3", 4, {"parallel.dp=4", "train.micro_batch=2"}, "validation"},
      // Sums of gradients and their order.
      {"groups_in_turn", "qwen3", 2, {"parallel.dp=2", "parallel.reduce_groups=8"}, "final_norm.weight"},
      {"odd_group_lost", "qwen3", 2, odd, "final_norm.weight", "too small"},
      {"microbatch_overwrites_group", "qwen3", 2, dp2, "final_norm.weight", "too small"},
      {"qk_norms_not_summed", "qwen3", 2, tp2, "layers.2.attention.q_norm.weight"},
      {"router_not_summed", "qwen3_moe", 2, tp2, "layers.1.ffn.router.weight"},
      {"kv_copies_not_summed", "llama", 4, {"parallel.tp=4"}, "layers.1.attention.v.bias"},
      {"tied_sum_on_first_stage_alone",
       "llama",
       2,
       {"parallel.pp=2", "model.tie_word_embeddings=true"},
       "embedding.weight",
       "not all have the update"},
      // Updates.
      {"clip_on_first_rank_alone", "qwen3", 2, zero1, "", "after step 0"},
      {"eps_of_parts", "qwen3", 2, zero2, "", "after step 0"},
      {"parts_do_not_decay", "qwen3", 2, zero2, "embedding.weight", "after step 0"},
      {"views_not_converted", "qwen3", 2, zero1, "embedding.weight", "computes with other values", true},
      {"new_weights_not_published", "qwen3", 2, zero1, "embedding.weight", "different values", true},
      // Stages.
      {"stages_cut_evenly", "qwen3", 2, {"parallel.pp=2", "parallel.layers=[6, 2]"}, "layers."},
      {"virtual_stages_in_blocks",
       "qwen3",
       2,
       {"parallel.pp=2", "parallel.schedule=interleaved", "parallel.virtual_stages=2"},
       "layers."},
      {"weight_task_lost", "qwen3", 2, {"parallel.pp=2", "parallel.schedule=zero_bubble"}, ""},
      // Attention over pieces of sequences; the vocabulary.
      {"document_starts_of_first_piece", "qwen3", 2, cp2, "layers.0.attention"},
      {"window_off_by_one_in_last_piece", "qwen3", 2, cp2, "layers.1.attention"},
      {"window_short_across_pieces", "qwen3", 2, cp2, "layers.2.attention"},
      {"ulysses_mask_lost", "qwen3", 2, {"parallel.cp=2", "parallel.context=ulysses"}, "layers.0.attention"},
      {"vocabulary_cut_evenly", "qwen3", 4, {"parallel.tp=4", "model.vocab_size=1003"}, "loss"},
      // Experts behind dense layers.
      {"experts_not_reduced", "qwen3_moe", 2, dp2, "layers.1.ffn.experts"},
      {"expert_rows_to_wrong_places", "qwen3_moe", 2, ep2, "layers.1.ffn"},
      {"experts_summed_with_others", "qwen3_moe", 2, ep2, "layers.1.ffn.experts"},
      {"full_buffer_loses_a_row", "qwen3_moe", 2, bounded, "layers.1.ffn"},
      {"overflow_not_told", "qwen3_moe", 2, bounded, "expert_buffer", "nothing is said"},
      {"overflow_moves_weights", "qwen3_moe", 2, bounded, "expert_buffer", "moves all the same"},
      {"sequence_counts_miss_cp", "qwen3_moe", 2, cp2, "balance term"},
      {"shares_of_batch_not_known",
       "qwen3_moe",
       2,
       {"parallel.dp=2", "experts.balance=global", "experts.coefficient=0.1"},
       "balance term"},
      {"loads_of_one_rank", "qwen3_moe", 2, {"parallel.dp=2", "parallel.layers=[8]"}, "balance term"},
      {"choice_made_anew", "qwen3_moe", 2, biased, "layers.1.ffn"},
  };
}

class ConfigMutants : public testing::TestWithParam<ConfigMutant> {};

TEST_P(ConfigMutants, AreCaughtAndNamed) {
  const ConfigMutant& seeded = GetParam();
  const Planned plan = planned(seeded.family, seeded.ranks, seeded.overrides);
  VerifyOptions options;
  options.bf16 = seeded.bf16;
  ::setenv("TESSERA_MUTANT", seeded.name, 1);
  const Verdict result = verify_plan(plan, options);
  ::unsetenv("TESSERA_MUTANT");
  ASSERT_TRUE(result.fault) << seeded.name << " went unseen: " << report(result);
  EXPECT_TRUE(result.fault->tensor.starts_with(seeded.named)) << verdict(result);
  EXPECT_NE(result.fault->what.find(seeded.says), std::string::npos) << verdict(result);
  std::string keys;
  for (const std::string& key : seeded.overrides)
    keys += (keys.empty() ? "" : ", ") + key.substr(key.find('.') + 1);
  std::printf("| `%s` | %s | %s |\n", seeded.name, keys.c_str(), verdict(result).c_str());
}

// The same configs without a fault.
TEST(ConfigMutants, AreOfSoundLayouts) {
  std::set<std::pair<std::string, Keys>> checked;
  for (const ConfigMutant& one : config_mutants()) {
    if (!checked.emplace(one.family, one.overrides).second) continue;
    const Verdict result = verify_plan(planned(one.family, one.ranks, one.overrides));
    EXPECT_FALSE(result.fault) << one.name << ": " << report(result);
  }
}

// Ranks that are processes: this program, started by verify under mpirun.
struct MpiMutant {
  const char* name;
  Keys overrides;
};
const std::vector<MpiMutant> mpi_mutants{{"mpi_counts_short", {"parallel.dp=2"}},
                                         {"mpi_letter_mixed_up", {"parallel.pp=2"}}};

Verdict verify_under_mpi(const Keys& overrides, const char* mutant_name) {
  VerifyOptions options;
  options.mpi_program = {std::filesystem::read_symlink("/proc/self/exe").string(), "--mpi-rank",
                         overrides[0]};
  if (mutant_name != nullptr) ::setenv("TESSERA_MUTANT", mutant_name, 1);
  Verdict result = verify_plan(planned("qwen3", 2, overrides), options);
  ::unsetenv("TESSERA_MUTANT");
  return result;
}

TEST(MpiMutants, AreCaughtAndNamed) {
  for (const MpiMutant& seeded : mpi_mutants) {
    const Verdict sound = verify_under_mpi(seeded.overrides, nullptr);
    EXPECT_FALSE(sound.fault) << report(sound);
    if (sound.lines.back().find("not run") != std::string::npos) GTEST_SKIP() << sound.lines.back();
    const Verdict result = verify_under_mpi(seeded.overrides, seeded.name);
    ASSERT_TRUE(result.fault) << seeded.name << " went unseen: " << report(result);
    EXPECT_TRUE(result.fault->tensor.starts_with("MPI: ")) << verdict(result);
    std::printf("| `%s` | %s | %s |\n", seeded.name, text(result.small.layout).c_str(),
                verdict(result).c_str());
  }
}

// Readers see what is caught.
TEST(Mutants, StandInTheDocuments) {
  std::ifstream file(TESSERA_SOURCE_DIR "/docs/parallelism.md");
  const std::string document(std::istreambuf_iterator<char>(file), {});
  const auto stands = [&](const std::string& name) {
    EXPECT_NE(document.find("| `" + name + "` |"), std::string::npos) << name;
  };
  for (const Mutant& one : mutants()) stands(one.name);
  for (const ConfigMutant& one : config_mutants()) stands(one.name);
  for (const MpiMutant& one : mpi_mutants) stands(one.name);
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

INSTANTIATE_TEST_SUITE_P(Verify, ConfigMutants, testing::ValuesIn(config_mutants()), [](const auto& tested) {
  return std::string(tested.param.name) + (tested.param.bf16 ? "InBf16" : "");
});

}  // namespace
}  // namespace tessera::verify

int main(int count, char** arguments) {
  using namespace tessera::verify;
  if (count == 4 && std::string(arguments[1]) == "--mpi-rank") {
    const Planned plan = planned("qwen3", 2, {arguments[2]});
    return verify_mpi_rank(plan.config, plan.release, plan.layout, arguments[3]);
  }
  testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
