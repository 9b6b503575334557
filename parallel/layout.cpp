#include "parallel/layout.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/nn/spec.h"
#include "parallel/tree_sum.h"

namespace tessera {
namespace {

MeshLimits limits_of(const ModelSpec& spec, const BatchShape& batch) {
  MeshLimits limits;
  limits.layers = static_cast<std::int64_t>(spec.layers.size());
  limits.seq_len = batch.seq_len;
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* attention = std::get_if<AttentionSpec>(&cell.body)) {
        limits.heads = attention->heads;
        limits.kv_heads = attention->kv_heads;
      } else if (const auto* moe = std::get_if<MoeSpec>(&cell.body)) {
        limits.experts = moe->experts;
        limits.expert_width = moe->width;
      }
  return limits;
}

void check_tokens(const MeshShape& mesh, const BatchShape& batch) {
  const std::int64_t tokens = batch.micro_batch * (batch.seq_len / mesh.cp);
  if (tokens % mesh.tp != 0)
    fail_usage("parallel.tp {} does not divide the {} tokens of a microbatch{}", mesh.tp, tokens,
               mesh.cp > 1 ? " on one of cp ranks" : "");
}

void check_ulysses(const MeshShape& mesh, const MeshLimits& limits) {
  const std::int64_t heads = limits.heads / mesh.tp;
  const std::int64_t kv_heads = std::max<std::int64_t>(1, limits.kv_heads / mesh.tp);
  if (heads % mesh.cp != 0)
    fail_usage(
        "parallel.cp {} does not divide the {} heads of a rank, as context: ulysses needs; use "
        "context: all_gather or a divisor",
        mesh.cp, heads);
  if (kv_heads % mesh.cp != 0 && mesh.cp % kv_heads != 0)
    fail_usage(
        "parallel.cp {} neither divides the {} KV heads of a rank nor is a multiple of them, as "
        "context: ulysses needs; use context: all_gather",
        mesh.cp, kv_heads);
}

void check_pipeline(const LayoutRequest& request, const MeshShape& mesh, const MeshLimits& limits,
                    const BatchShape& batch) {
  const std::int64_t microbatches = batch.microbatches() / mesh.dp;
  const bool interleaved = request.schedule == ScheduleKind::interleaved;
  if (request.virtual_stages < 1 || (request.virtual_stages > 1 && (!interleaved || mesh.pp == 1)))
    fail_usage("parallel.virtual_stages {} needs pp above 1 and schedule: interleaved",
               request.virtual_stages);
  const std::int64_t chunks = std::int64_t{mesh.pp} * request.virtual_stages;
  if (chunks > limits.layers)
    fail_usage("parallel.virtual_stages {} × pp {} are more chunks than the {} layers",
               request.virtual_stages, mesh.pp, limits.layers);
  if (interleaved && microbatches % mesh.pp != 0)
    fail_usage("parallel.schedule interleaved needs microbatches in multiples of pp {}; a rank has {}",
               mesh.pp, microbatches);
  if (request.layers.empty()) return;
  std::int64_t total = 0;
  for (const std::int64_t count : request.layers) total += count;
  const bool positive = std::all_of(request.layers.begin(), request.layers.end(),
                                    [](std::int64_t count) { return count >= 1; });
  if (request.layers.size() != static_cast<std::size_t>(chunks) || total != limits.layers || !positive)
    fail_usage("parallel.layers must list {} counts of at least 1 that add up to {} layers", chunks,
               limits.layers);
}

}  // namespace

const char* name_of(ScheduleKind kind) {
  constexpr const char* names[] = {"1f1b", "interleaved", "zero_bubble"};
  return names[static_cast<int>(kind)];
}

const char* name_of(ContextMethod method) {
  return method == ContextMethod::ulysses ? "ulysses" : "all_gather";
}

std::string text(const ParallelLayout& layout) {
  std::string all = text(layout.mesh);
  if (layout.zero > 0) all += fmt::format(", zero {}", layout.zero);
  if (layout.mesh.pp > 1) all += fmt::format(", {}", name_of(layout.schedule));
  if (layout.virtual_stages > 1) all += fmt::format(" x {}", layout.virtual_stages);
  if (layout.mesh.cp > 1 && layout.context == ContextMethod::ulysses) all += ", ulysses";
  if (layout.mesh.ep * layout.mesh.etp > 1 && layout.expert_buffer > 0)
    all += fmt::format(", expert_buffer {}", layout.expert_buffer);
  return all;
}

ParallelLayout plan_layout(const LayoutRequest& request, const ModelSpec& spec, const BatchShape& batch,
                           int ranks) {
  const MeshLimits limits = limits_of(spec, batch);
  const MeshShape mesh = plan_mesh(request.mesh, limits, ranks);
  if (batch.microbatches() % mesh.dp != 0)
    fail_usage("parallel.dp {} data-parallel ranks do not divide the {} microbatches of a step; dp may be {}",
               mesh.dp, batch.microbatches(), divisors(batch.microbatches()));
  if (spec.vocab_size < mesh.tp)
    fail_usage("parallel.tp {} is more than the {} tokens of the vocabulary", mesh.tp, spec.vocab_size);
  for (const LayerSpec& layer : spec.layers)
    for (const CellSpec& cell : layer)
      if (const auto* ffn = std::get_if<FfnSpec>(&cell.body); ffn != nullptr && ffn->width < mesh.tp)
        fail_usage("parallel.tp {} is more than the {} channels of an FFN", mesh.tp, ffn->width);
  if (request.expert_buffer != 0 && request.expert_buffer < 1)
    fail_usage(
        "parallel.expert_buffer {} holds less than an even load; use 1 or more, or 0, with which the host "
        "reads counts",
        request.expert_buffer);
  check_tokens(mesh, batch);
  if (mesh.cp > 1 && request.context == ContextMethod::ulysses) check_ulysses(mesh, limits);
  check_pipeline(request, mesh, limits, batch);
  return {request, mesh};
}

namespace {

std::vector<int> divisors_of(int n) {
  std::vector<int> list;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) list.push_back(d);
  return list;
}

// Schedules, ZeRO stages and context methods that make a difference on this mesh.
std::vector<LayoutRequest> variants(const LayoutRequest& base, const ModelSpec& spec) {
  const MeshRequest& mesh = base.mesh;
  std::vector<LayoutRequest> all;
  const bool replicas = *mesh.dp * mesh.cp > 1 || *mesh.dp * mesh.cp * mesh.tp > mesh.ep * mesh.etp;
  for (const ScheduleKind schedule :
       {ScheduleKind::one_f_one_b, ScheduleKind::interleaved, ScheduleKind::zero_bubble})
    for (const ContextMethod context : {ContextMethod::all_gather, ContextMethod::ulysses})
      for (int zero = 0; zero <= 3; ++zero) {
        if (mesh.pp == 1 && schedule != ScheduleKind::one_f_one_b) continue;
        if (mesh.cp == 1 && context != ContextMethod::all_gather) continue;
        if (!replicas && zero > 0) continue;
        LayoutRequest one = base;
        one.schedule = schedule;
        one.context = context;
        one.zero = zero;
        const bool room = spec.layers.size() >= static_cast<std::size_t>(2 * mesh.pp);
        one.virtual_stages = schedule == ScheduleKind::interleaved && room ? 2 : 1;
        all.push_back(one);
      }
  return all;
}

}  // namespace

std::vector<ParallelLayout> all_layouts(const LayoutRequest& base, const ModelSpec& spec,
                                        const BatchShape& batch, int ranks) {
  std::vector<ParallelLayout> layouts;
  for (const int pp : divisors_of(ranks))
    for (const int dp : divisors_of(ranks / pp))
      for (const int cp : divisors_of(ranks / pp / dp)) {
        const int tp = ranks / pp / dp / cp;
        for (const int ep : divisors_of(dp * cp * tp))
          for (const int etp : divisors_of(dp * cp * tp / ep)) {
            if (ep * etp > 1 && moe_layers(spec) == 0) continue;
            LayoutRequest request = base;
            request.layers.clear();
            request.mesh = {pp, cp, tp, ep, etp, dp};
            for (const LayoutRequest& variant : variants(request, spec)) {
              try {
                layouts.push_back(plan_layout(variant, spec, batch, ranks));
              } catch (const Error&) {  // does not fit: not a layout
              }
            }
          }
      }
  return layouts;
}

bool promises_bits(const ParallelLayout& layout, std::int64_t reduce_groups) {
  const MeshShape& mesh = layout.mesh;
  if (mesh.tp > 1 || mesh.cp > 1 || mesh.ep > 1 || mesh.etp > 1) return false;
  return layout.zero >= 2 ? rounds_are_subtrees(reduce_groups, mesh.dp)
                          : blocks_are_subtrees(reduce_groups, mesh.dp);
}

}  // namespace tessera
