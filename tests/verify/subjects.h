// Small models and sets of layouts for the tests of verify.
#pragma once

#include <algorithm>
#include <bit>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/hf_config.h"
#include "core/models/family.h"
#include "launch/verify/compare.h"
#include "launch/verify/report.h"

namespace tessera::verify {

// `heads` also sets experts, layers and microbatches, so that layouts of as many ranks fit.
inline Subject subject_of(const std::string& family, bool tied, int heads = 8, int kv_heads = 2,
                          Balance balance = Balance::sequence) {
  Json keys = {{"vocab_size", 67},
               {"hidden_size", 32},
               {"num_hidden_layers", heads},
               {"num_attention_heads", heads},
               {"num_key_value_heads", kv_heads},
               {"head_dim", 8},
               {"intermediate_size", 44},
               {"max_position_embeddings", 96},
               {"tie_word_embeddings", tied},
               {"initializer_range", 0.1}};
  if (family == "llama") {
    keys.update({{"attention_bias", true}, {"mlp_bias", true}});
    keys.erase("head_dim");
    keys["hidden_size"] = 8 * heads;
  }
  if (family == "qwen3")
    keys.update({{"use_sliding_window", true}, {"sliding_window", 11}, {"max_window_layers", heads / 2}});
  if (family == "qwen3_moe")
    keys.update({{"num_local_experts", heads},
                 {"num_experts_per_tok", 2},
                 {"moe_intermediate_size", 20},
                 {"norm_topk_prob", true},
                 {"mlp_only_layers", Json::array({1})}});
  Subject subject;
  subject.spec = make_release_config(find_family(family), keys, "test").spec;
  subject.batch = {heads, 1, std::max(16, 2 * heads)};
  subject.model.positions = subject.batch.seq_len;
  subject.reduce_groups = heads;
  subject.document_mask = family != "llama";
  if (family == "qwen3_moe") {
    subject.model.balance.kind = balance;
    subject.model.balance.coefficient = 0.05;
  }
  return subject;
}

// Choices for three steps that load two experts a token about evenly: they fit into smaller buffers than a
// new router's do.
inline Choices even_choices(const Subject& subject) {
  Choices all;
  const std::int64_t microbatches = 3 * subject.batch.microbatches();
  for (std::size_t i = 0; i < subject.spec.layers.size(); ++i)
    for (const CellSpec& cell : subject.spec.layers[i]) {
      const auto* moe = std::get_if<MoeSpec>(&cell.body);
      for (std::int64_t m = 0; moe != nullptr && m < microbatches; ++m) {
        auto& chosen = all[{"layers." + std::to_string(i) + ".ffn", m}];
        for (std::int64_t t = 0; t < subject.batch.micro_batch * subject.batch.seq_len; ++t) {
          const std::int64_t first = (3 * t + m) % moe->experts;
          chosen.push_back(static_cast<std::int32_t>(first));
          chosen.push_back(static_cast<std::int32_t>((first + 1 + t % 3) % moe->experts));
        }
      }
    }
  return all;
}

// What may go together wrong: a layout's value on each axis and switch.
inline std::vector<std::string> features(const ParallelLayout& layout) {
  const MeshShape& mesh = layout.mesh;
  std::vector<std::string> list;
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::ep, Axis::etp})
    list.push_back(std::string(name_of(axis)) + (mesh.size(axis) > 1 ? " many" : " one"));
  list.push_back("zero " + std::to_string(layout.zero));
  if (mesh.pp > 1) list.emplace_back(name_of(layout.schedule));
  if (mesh.cp > 1) list.emplace_back(name_of(layout.context));
  if (mesh.tp > 2) list.emplace_back("more tp than KV heads");
  if (mesh.ep * mesh.etp > 1) list.emplace_back(layout.expert_buffer > 0 ? "bounded" : "counted");
  return list;
}

// Few layouts that have every pair of features that some layout has.
inline std::vector<ParallelLayout> covering(const std::vector<ParallelLayout>& all) {
  using Pair = std::pair<std::string, std::string>;
  const auto pairs = [](const ParallelLayout& layout) {
    std::set<Pair> found;
    const std::vector<std::string> list = features(layout);
    for (std::size_t i = 0; i < list.size(); ++i)
      for (std::size_t j = i + 1; j < list.size(); ++j) found.emplace(list[i], list[j]);
    return found;
  };
  std::set<Pair> wanted;
  for (const ParallelLayout& layout : all) wanted.merge(pairs(layout));
  std::vector<ParallelLayout> chosen;
  while (!wanted.empty()) {
    const ParallelLayout* best = nullptr;
    std::size_t most = 0;
    for (const ParallelLayout& layout : all) {
      std::size_t gain = 0;
      for (const Pair& pair : pairs(layout)) gain += wanted.count(pair);
      if (gain > most) {
        most = gain;
        best = &layout;
      }
    }
    chosen.push_back(*best);
    for (const Pair& pair : pairs(*best)) wanted.erase(pair);
  }
  return chosen;
}

// Compares layouts with one rank, which runs once. After run_alone() any thread may check.
class Bench {
 public:
  explicit Bench(Subject subject) : subject_(std::move(subject)) {}
  void run_alone() {
    if (one_.losses.empty()) one_ = run(subject_, {});
  }
  Comparison check(const ParallelLayout& layout) {
    run_alone();
    return compare(subject_, layout, one_, run(subject_, layout, &one_.choices));
  }
  const Subject& subject() const { return subject_; }
  // Half of those that deal out experts with buffers of a fixed size, as large as rows can need; which half
  // has nothing to do with the other axes.
  std::vector<ParallelLayout> layouts(int ranks) const {
    std::vector<ParallelLayout> all = all_layouts({}, subject_.spec, subject_.batch, ranks);
    for (std::size_t i = 0; i < all.size(); ++i)
      if (all[i].mesh.ep * all[i].mesh.etp > 1 && std::popcount(i) % 2 == 0)
        all[i].expert_buffer = all[i].mesh.ep;
    return all;
  }

 private:
  Subject subject_;
  Record one_;
};

}  // namespace tessera::verify
