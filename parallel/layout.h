// How a model is spread over ranks, and whether it can be. Plain values and pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/mesh_shape.h"

namespace tessera {

struct ModelSpec;

enum class ScheduleKind { one_f_one_b, interleaved, zero_bubble };
const char* name_of(ScheduleKind kind);
enum class ContextMethod { all_gather, ulysses };
const char* name_of(ContextMethod method);

// What a config chooses beside the sizes of axes.
struct LayoutChoices {
  int zero = 0;
  ScheduleKind schedule = ScheduleKind::one_f_one_b;
  int virtual_stages = 1;
  ContextMethod context = ContextMethod::all_gather;
  std::vector<std::int64_t> layers;  // of each pipeline chunk; empty: split by cost
  double expert_buffer = 0;          // parallel/experts.h
};
struct LayoutRequest : LayoutChoices {
  MeshRequest mesh;
};
struct ParallelLayout : LayoutChoices {
  MeshShape mesh;
};
std::string text(const ParallelLayout& layout);  // "dp 2, tp 2, zero 1"

// A step's batch: what is the same under every layout.
struct BatchShape {
  std::int64_t global_batch = 1, micro_batch = 1, seq_len = 1;
  bool document_mask = true;  // whether positions see their own document only
  std::int64_t microbatches() const { return global_batch / micro_batch; }
};

// The layout over `ranks`. Throws Error (usage) beginning with the key at fault, as "parallel.tp", where it
// does not fit the model, the batch or the ranks, and says what would.
ParallelLayout plan_layout(const LayoutRequest& request, const ModelSpec& spec, const BatchShape& batch,
                           int ranks);

// Every valid layout over exactly `ranks`: all sizes of all axes, ZeRO stages where ranks hold replicas,
// schedules where there are stages, both ways of context parallelism. Other keys are those of `base`.
std::vector<ParallelLayout> all_layouts(const LayoutRequest& base, const ModelSpec& spec,
                                        const BatchShape& batch, int ranks);

// Whether a run under this layout has the bits of one rank with the same micro_batch and as many reduce
// groups: no tensor, context or expert parallelism, and ranks whose sums are subtrees of the groups'.
bool promises_bits(const ParallelLayout& layout, std::int64_t reduce_groups);

}  // namespace tessera
