#include "launch/verify/shrink.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/base/error.h"
#include "parallel/pipeline/split.h"

namespace tessera::verify {
namespace {

constexpr std::int64_t head_dim = 8;
// Tokens of the pieces in which ranks hold a sequence: windows end within them and reach beyond them.
constexpr std::int64_t least_piece = 8;

// A multiple of `parts` near `about`, and what is left of the original beyond a multiple.
std::int64_t like(std::int64_t original, std::int64_t parts, std::int64_t about) {
  const std::int64_t multiple = (about + parts - 1) / parts * parts;
  return multiple + original % parts;
}

// What a layer computes, but for its weights: equal for layers of one kind.
std::string kind_of(const LayerSpec& layer) {
  std::string kind;
  for (const CellSpec& cell : layer)
    if (const auto* a = std::get_if<AttentionSpec>(&cell.body))
      kind += fmt::format("attention {} {} {} {} {} {} {} {} {} {};", a->heads, a->kv_heads, a->head_dim,
                          a->qkv_bias, a->output_bias, a->qk_norm.has_value(), a->rope.width, a->rope.theta,
                          a->rope.scaling.has_value(), a->window);
    else if (const auto* f = std::get_if<FfnSpec>(&cell.body))
      kind += fmt::format("ffn {} {};", f->width, f->bias);
    else if (const auto* m = std::get_if<MoeSpec>(&cell.body))
      kind += fmt::format("experts {} {} {} {};", m->experts, m->top_k, m->width, m->normalize);
  return kind;
}

bool has_window(const LayerSpec& layer) {
  return std::any_of(layer.begin(), layer.end(), [](const CellSpec& cell) {
    const auto* attention = std::get_if<AttentionSpec>(&cell.body);
    return attention != nullptr && attention->window > 0;
  });
}

// Of a chunk's layers, those that stay, by index: the first of each kind (with windows the first two, of
// which each gets another window), the last where it is of another kind than what is kept before it, and
// unless `single`, a second one of a chunk's only kind.
std::vector<std::size_t> kept_layers(const std::vector<LayerSpec>& layers, std::size_t first,
                                     std::size_t count, bool single) {
  std::vector<std::size_t> kept;
  std::map<std::string, int> kinds;
  for (std::size_t i = first; i < first + count; ++i)
    if (++kinds[kind_of(layers[i])] <= (has_window(layers[i]) ? 2 : 1)) kept.push_back(i);
  const std::size_t last = first + count - 1;
  if (kind_of(layers[last]) != kind_of(layers[kept.back()])) kept.push_back(last);
  if (kept.size() == 1 && count > 1 && !single) kept.push_back(first + 1);
  return kept;
}

// Of each chunk. Chunks of one kind keep one layer where they are the shortest of several, else two: stages
// that are unlike stay so.
std::vector<std::vector<std::size_t>> kept_layers(const std::vector<LayerSpec>& layers,
                                                  const std::vector<std::int64_t>& chunks) {
  const std::int64_t least = *std::min_element(chunks.begin(), chunks.end());
  std::vector<std::vector<std::size_t>> kept;
  std::size_t first = 0;
  for (const std::int64_t count : chunks) {
    kept.push_back(
        kept_layers(layers, first, static_cast<std::size_t>(count), count == least && chunks.size() > 2));
    first += static_cast<std::size_t>(count);
  }
  return kept;
}

AttentionSpec small_attention(AttentionSpec a, const MeshShape& mesh, ContextMethod context) {
  const std::int64_t ratio = a.heads / a.kv_heads;
  const int over = mesh.tp * (context == ContextMethod::ulysses ? mesh.cp : 1);
  a.kv_heads = a.kv_heads >= over ? over * std::min<std::int64_t>(a.kv_heads / over, 2) : a.kv_heads;
  a.heads = a.kv_heads * ratio;
  a.rope.width = std::max<std::int64_t>(2, head_dim * a.rope.width / a.head_dim / 2 * 2);
  a.head_dim = head_dim;
  return a;
}

// As many experts a rank as leave tokens a choice; odd numbers stay odd.
MoeSpec small_moe(MoeSpec m, const MeshShape& mesh) {
  const std::int64_t of_rank = m.experts / mesh.ep;
  std::int64_t each = std::max<std::int64_t>(2, (2 * m.top_k + mesh.ep - 1) / mesh.ep);
  each += (each + of_rank) % 2;
  m.experts = std::min(of_rank, each) * mesh.ep;
  m.width = like(m.width, mesh.etp, 24);
  return m;
}

// Windows that end inside a piece of a sequence and windows that reach beyond one, in turn: neither divides
// anything.
void shrink_windows(std::vector<LayerSpec>& layers, std::int64_t piece, std::int64_t seq_len) {
  std::int64_t windows[] = {piece / 2 + 1, piece + piece / 2 - 1};
  for (std::int64_t& window : windows)
    while (seq_len % window == 0) ++window;
  std::size_t met = 0;
  for (LayerSpec& layer : layers)
    for (CellSpec& cell : layer)
      if (auto* attention = std::get_if<AttentionSpec>(&cell.body); attention && attention->window > 0)
        attention->window = windows[met++ % 2];
}

ModelSpec small_spec(const ModelSpec& spec, const ParallelLayout& layout,
                     const std::vector<std::vector<std::size_t>>& kept, std::int64_t seq_len,
                     std::int64_t piece) {
  ModelSpec small = spec;
  small.layers.clear();
  for (const std::vector<std::size_t>& chunk : kept)
    for (const std::size_t i : chunk) small.layers.push_back(spec.layers[i]);
  for (LayerSpec& layer : small.layers)
    for (CellSpec& cell : layer) {
      if (auto* attention = std::get_if<AttentionSpec>(&cell.body))
        *attention = small_attention(*attention, layout.mesh, layout.context);
      else if (auto* ffn = std::get_if<FfnSpec>(&cell.body))
        ffn->width = like(ffn->width, layout.mesh.tp, 44);
      else if (auto* moe = std::get_if<MoeSpec>(&cell.body))
        *moe = small_moe(*moe, layout.mesh);
    }
  shrink_windows(small.layers, piece, seq_len);
  small.hidden_size = 48;
  small.vocab_size = like(spec.vocab_size, layout.mesh.tp, 131);
  small.max_positions = seq_len;
  small.init_std = 0.1;
  return small;
}

// Of one data-parallel rank: reduce groups of a step, and microbatches in each.
struct Rounds {
  std::int64_t groups = 1, of_group = 1;
};

// The fewest that show what the config's show: the schedule with its pipeline full, sums over several
// microbatches and over several groups, odd numbers of groups, and whether groups fall into subtrees.
Rounds small_rounds(const Rounds& original, const ParallelLayout& layout) {
  const MeshShape& mesh = layout.mesh;
  const std::int64_t least =
      std::min<std::int64_t>(original.groups * original.of_group, std::max(2, mesh.pp));
  const auto shows = [&](const Rounds& r) {
    const std::int64_t microbatches = r.groups * r.of_group;
    return microbatches >= least && (r.groups > 1) == (original.groups > 1) &&
           (r.of_group > 1) == (original.of_group > 1) && r.groups % 2 == original.groups % 2 &&
           (layout.schedule != ScheduleKind::interleaved || microbatches % mesh.pp == 0) &&
           promises_bits(layout, r.groups * mesh.dp) == promises_bits(layout, original.groups * mesh.dp);
  };
  for (std::int64_t total = 1; total < original.groups * original.of_group; ++total)
    for (std::int64_t of_group = 1; of_group <= std::min(total, original.of_group); ++of_group)
      if (const Rounds r{total / of_group, of_group};
          total % of_group == 0 && r.groups <= original.groups && shows(r))
        return r;
  return original;
}

Rounds rounds_of(const Config& config, const ParallelLayout& layout) {
  const std::int64_t microbatches = config.train.global_batch / config.train.micro_batch;
  const int dp = layout.mesh.dp;
  const std::int64_t groups =
      config.parallel.reduce_groups.value_or(layout.zero >= 2 ? static_cast<int>(microbatches) : dp);
  if (groups <= 0 || microbatches % groups != 0 || groups % dp != 0) return {1, microbatches / dp};
  return {groups / dp, microbatches / groups};
}

// Rates at which every term of an update shows above what is allowed (compare.cpp: a hundredth of lr):
// weights are some 0.1 and gradients some 1e-3, so decay moves a weight by lr / 10, and eps and clipping
// change an update by a tenth and more. Terms that the config switches off stay off.
void choose_rates(const OptimizerConfig& optimizer, Subject& subject) {
  subject.optimizer = {optimizer.beta1, optimizer.beta2, std::max(optimizer.eps, 1e-4),
                       optimizer.weight_decay > 0 ? 1.0 : 0.0};
  subject.clip = optimizer.clip > 0 ? 0.5 : 0;
}

template <class Numbers>
std::string joined(const Numbers& numbers, const char* separator) {
  std::string text;
  for (const std::int64_t number : numbers) text += (text.empty() ? "" : separator) + std::to_string(number);
  return text;
}

// What stays of the config, for the reader: a line each.
std::vector<std::string> what_is_kept(const ModelSpec& spec, const Small& small, const Rounds& rounds) {
  const ModelSpec& tiny = small.subject.spec;
  const auto kinds = [](const ModelSpec& of) {
    std::set<std::string> all;
    for (const LayerSpec& layer : of.layers) all.insert(kind_of(layer));
    return static_cast<std::int64_t>(all.size());
  };
  std::string layers =
      fmt::format("{} of {} layers, kinds: {}", tiny.layers.size(), spec.layers.size(), kinds(spec));
  if (const auto moe = moe_layers(tiny); moe > 0) layers += fmt::format(", {} with experts", moe);
  if (small.layout.layers.size() > 1)
    layers += fmt::format("; by chunk {}", joined(small.layout.layers, ", "));
  std::vector<std::string> lines{layers};
  std::set<std::int64_t> windows;
  std::string experts;
  for (const LayerSpec& layer : tiny.layers)
    for (const CellSpec& cell : layer)
      if (const auto* a = std::get_if<AttentionSpec>(&cell.body); a != nullptr && a->window > 0)
        windows.insert(a->window);
      else if (const auto* m = std::get_if<MoeSpec>(&cell.body))
        experts = fmt::format("{} experts, {} a token", m->experts, m->top_k);
  if (!windows.empty())
    lines.push_back(
        fmt::format("windows of {} of {} tokens", joined(windows, " and "), small.subject.batch.seq_len));
  if (small.subject.document_mask)
    lines.emplace_back("masked documents, which begin at borders of pieces too");
  if (!experts.empty()) lines.push_back(experts);
  lines.push_back(fmt::format("reduce groups: {} a data-parallel rank, microbatches in each: {}",
                              rounds.groups, rounds.of_group));
  return lines;
}

}  // namespace

Small shrink(const Config& config, const ModelSpec& spec, const ParallelLayout& layout, DType compute) {
  Small small;
  small.layout = layout;
  const MeshShape& mesh = layout.mesh;
  const int chunks = mesh.pp * layout.virtual_stages;
  const std::int64_t unit = std::int64_t{2} * mesh.cp * mesh.tp;
  const std::int64_t least = std::max<std::int64_t>(32, 2 * mesh.cp * least_piece);
  const std::int64_t seq_len = (least + unit - 1) / unit * unit;
  const std::int64_t piece = mesh.cp > 1 ? seq_len / (2 * mesh.cp) : least_piece;
  const std::vector<std::int64_t> original =
      layout.layers.empty() ? split_layers(split_costs(spec, config.data.seq_len), chunks) : layout.layers;
  const auto kept = kept_layers(spec.layers, original);
  small.layout.layers.clear();
  for (const auto& chunk : kept) small.layout.layers.push_back(std::ssize(chunk));
  Subject& subject = small.subject;
  subject.spec = small_spec(spec, layout, kept, seq_len, piece);
  const Rounds rounds = small_rounds(rounds_of(config, layout), layout);
  const std::int64_t micro_batch = std::min<std::int64_t>(config.train.micro_batch, 2);
  subject.reduce_groups = rounds.groups * mesh.dp;
  subject.batch = {micro_batch * subject.reduce_groups * rounds.of_group, micro_batch, seq_len};
  subject.model = {compute, config.train.recompute, seq_len, {}};
  if (moe_layers(spec) > 0) {
    subject.model.balance.kind = config.experts.balance;
    subject.model.balance.coefficient = config.experts.coefficient;
    subject.model.balance.bias_rate = config.experts.bias_rate;
  }
  subject.document_mask = config.data.document_mask;
  subject.piece = piece;
  choose_rates(config.optimizer, subject);
  small.kept = what_is_kept(spec, small, rounds);
  return small;
}

}  // namespace tessera::verify
