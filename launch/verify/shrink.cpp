#include "launch/verify/shrink.h"

#include <algorithm>
#include <numeric>

#include "parallel/pipeline/split.h"

namespace tessera::verify {
namespace {

constexpr std::int64_t head_dim = 8;

// A multiple of `parts` near `about`, or one more where the original does not divide either.
std::int64_t like(std::int64_t original, std::int64_t parts, std::int64_t about) {
  const std::int64_t multiple = (about + parts - 1) / parts * parts;
  return original % parts == 0 ? multiple : multiple + 1;
}

// One or two layers a chunk: two where the original has more than the smallest chunk.
std::vector<std::int64_t> chunk_layers(const std::vector<std::int64_t>& original) {
  const std::int64_t least = *std::min_element(original.begin(), original.end());
  std::vector<std::int64_t> counts;
  for (const std::int64_t count : original)
    counts.push_back(count == 1 || (count == least && original.size() > 2) ? 1 : 2);
  return counts;
}

AttentionSpec small_attention(AttentionSpec a, const MeshShape& mesh, ContextMethod context,
                              std::int64_t seq_len) {
  const std::int64_t ratio = a.heads / a.kv_heads;
  const int over = mesh.tp * (context == ContextMethod::ulysses ? mesh.cp : 1);
  a.kv_heads = a.kv_heads >= over ? over * std::min<std::int64_t>(a.kv_heads / over, 2) : a.kv_heads;
  a.heads = a.kv_heads * ratio;
  a.rope.width = std::max<std::int64_t>(2, head_dim * a.rope.width / a.head_dim / 2 * 2);
  a.head_dim = head_dim;
  if (a.window > 0) a.window = std::max<std::int64_t>(2, seq_len / 3);
  return a;
}

MoeSpec small_moe(MoeSpec m, const MeshShape& mesh) {
  const std::int64_t each = std::max<std::int64_t>(2, (2 * m.top_k + mesh.ep - 1) / mesh.ep);
  m.experts = std::min(m.experts, each * mesh.ep);
  m.width = like(m.width, mesh.etp, 24);
  return m;
}

// The first layers of each chunk, so that what is special about a layer's number stays.
ModelSpec small_spec(const ModelSpec& spec, const ParallelLayout& layout,
                     const std::vector<std::int64_t>& original, const std::vector<std::int64_t>& counts,
                     std::int64_t seq_len) {
  ModelSpec small = spec;
  small.layers.clear();
  std::int64_t first = 0;
  for (std::size_t chunk = 0; chunk < counts.size(); ++chunk) {
    for (std::int64_t i = 0; i < counts[chunk]; ++i)
      small.layers.push_back(spec.layers[static_cast<std::size_t>(first + i)]);
    first += original[chunk];
  }
  for (LayerSpec& layer : small.layers)
    for (CellSpec& cell : layer) {
      if (auto* attention = std::get_if<AttentionSpec>(&cell.body))
        *attention = small_attention(*attention, layout.mesh, layout.context, seq_len);
      else if (auto* ffn = std::get_if<FfnSpec>(&cell.body))
        ffn->width = like(ffn->width, layout.mesh.tp, 44);
      else if (auto* moe = std::get_if<MoeSpec>(&cell.body))
        *moe = small_moe(*moe, layout.mesh);
    }
  small.hidden_size = 48;
  small.vocab_size = like(spec.vocab_size, layout.mesh.tp, 131);
  small.max_positions = seq_len;
  small.init_std = 0.1;
  return small;
}

// As many microbatches for each rank as show the schedule and the sums: at least two, a full pipeline.
BatchShape small_batch(const Config& config, const ParallelLayout& layout, std::int64_t seq_len) {
  const MeshShape& mesh = layout.mesh;
  const std::int64_t of_rank = config.train.global_batch / config.train.micro_batch / mesh.dp;
  std::int64_t kept = std::min<std::int64_t>(of_rank, std::max(2, mesh.pp));
  if (layout.schedule == ScheduleKind::interleaved && mesh.pp > 1) kept = mesh.pp;
  const std::int64_t micro_batch = std::min<std::int64_t>(config.train.micro_batch, 2);
  return {micro_batch * mesh.dp * kept, micro_batch, seq_len};
}

}  // namespace

Small shrink(const Config& config, const ModelSpec& spec, const ParallelLayout& layout, DType compute) {
  Small small;
  small.layout = layout;
  const MeshShape& mesh = layout.mesh;
  const int chunks = mesh.pp * layout.virtual_stages;
  const std::int64_t unit = std::int64_t{2} * mesh.cp * mesh.tp;
  const std::int64_t seq_len = (32 + unit - 1) / unit * unit;
  const std::vector<std::int64_t> original =
      layout.layers.empty() ? split_layers(split_costs(spec, config.data.seq_len), chunks) : layout.layers;
  small.layout.layers = chunk_layers(original);
  // A few tokens' load is less even than that of the config's.
  if (layout.expert_buffer > 0) small.layout.expert_buffer = mesh.ep;
  Subject& subject = small.subject;
  subject.spec = small_spec(spec, layout, original, small.layout.layers, seq_len);
  subject.batch = small_batch(config, layout, seq_len);
  subject.model = {compute, config.train.recompute, seq_len, {}};
  if (moe_layers(spec) > 0) {
    subject.model.balance.kind = config.experts.balance;
    subject.model.balance.coefficient = config.experts.coefficient;
    subject.model.balance.bias_rate = config.experts.bias_rate;
  }
  subject.document_mask = config.data.document_mask;
  const std::int64_t microbatches = subject.batch.microbatches();
  const std::int64_t groups =
      config.parallel.reduce_groups.value_or(layout.zero >= 2 ? static_cast<int>(microbatches) : mesh.dp);
  const bool fits = microbatches % groups == 0 && groups % mesh.dp == 0;
  subject.reduce_groups = fits ? groups : mesh.dp;
  subject.optimizer = {config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps,
                       config.optimizer.weight_decay};
  subject.clip = config.optimizer.clip;
  return small;
}

}  // namespace tessera::verify
