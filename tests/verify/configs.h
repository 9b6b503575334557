// Configs to verify, as users would write them, with layouts of several ranks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/verify/report.h"

namespace tessera::verify {

struct Planned {
  Config config;
  ReleaseConfig release;
  ParallelLayout layout;
};

// Dense Qwen3 of 8 layers, the latter four with windows; or with experts from the third layer on (`family`
// qwen3_moe). Overrides as on a command line.
inline Planned planned(const std::string& family, int ranks, std::vector<std::string> overrides) {
  std::string text = "model: {family: " + family +
                     ", vocab_size: 1001, hidden_size: 64, num_hidden_layers: 8, num_attention_heads: 8, "
                     "num_key_value_heads: 2, head_dim: 16, intermediate_size: 128, "
                     "max_position_embeddings: 512";
  if (family == "llama") text += ", attention_bias: true, mlp_bias: true";
  if (family == "qwen3") text += ", use_sliding_window: true, sliding_window: 100, max_window_layers: 4";
  if (family == "qwen3_moe")
    text +=
        ", num_local_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 32, norm_topk_prob: true, "
        "mlp_only_layers: [0, 1]";
  text +=
      "}\n"
      "data: {train: [{path: train.h5}], valid: [{path: valid.h5}], seq_len: 256, document_mask: true}\n"
      "train: {steps: 100, global_batch: 24, micro_batch: 1}\n"
      "optimizer: {lr: 1e-4, weight_decay: 0.01}\n"
      "init: {seed: 1}\nschedule: {name: cosine}\ncheckpoint: {dir: checkpoints}\nlog: {dir: runs}\n";
  Planned plan{parse_config(text, "test", overrides), {}, {}};
  Json keys = *plan.config.model.keys;
  plan.release = make_release_config(find_family(family), keys, "test");
  const BatchShape batch{plan.config.train.global_batch, plan.config.train.micro_batch,
                         plan.config.data.seq_len};
  plan.layout = plan_layout(plan.config.parallel.layout, plan.release.spec, batch, ranks);
  return plan;
}

inline Verdict verify_plan(const Planned& plan, const VerifyOptions& options = {}) {
  return verify_layout(plan.config, plan.release, plan.layout, options);
}

}  // namespace tessera::verify
