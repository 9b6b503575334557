// Small models and sets of layouts for the tests of verify.
#pragma once

#include <algorithm>
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

// What may go together wrong: a layout's value on each axis and switch.
inline std::vector<std::string> features(const ParallelLayout& layout) {
  const MeshShape& mesh = layout.mesh;
  std::vector<std::string> list;
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::ep, Axis::etp})
    list.push_back(std::string(name_of(axis)) + (mesh.size(axis) > 1 ? " many" : " one"));
  list.push_back("zero " + std::to_string(layout.zero));
  if (mesh.pp > 1) list.push_back(name_of(layout.schedule));
  if (mesh.cp > 1) list.push_back(name_of(layout.context));
  if (mesh.tp > 2) list.push_back("more tp than KV heads");
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
  std::vector<ParallelLayout> layouts(int ranks) const {
    return all_layouts({}, subject_.spec, subject_.batch, ranks);
  }

 private:
  Subject subject_;
  Record one_;
};

}  // namespace tessera::verify
