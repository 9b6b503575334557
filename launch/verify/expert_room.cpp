#include "launch/verify/expert_room.h"

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "parallel/context.h"

namespace tessera::verify {
namespace {

// Which of the ranks that share a microbatch has its token.
std::vector<int> holders(const BatchShape& batch, const MeshShape& mesh) {
  std::vector<int> rank_of(static_cast<std::size_t>(batch.micro_batch * batch.seq_len));
  for (int c = 0; c < mesh.cp; ++c) {
    std::vector<std::int64_t> places;  // of this cp rank's tokens, row by row
    for (std::int64_t row = 0; row < batch.micro_batch; ++row)
      for (const PositionRange& range : positions_of(batch.seq_len, c, mesh.cp))
        for (std::int64_t p = range.begin; p < range.end; ++p) places.push_back(row * batch.seq_len + p);
    for (std::size_t i = 0; i < places.size(); ++i)
      rank_of[static_cast<std::size_t>(places[i])] =
          c * mesh.tp + static_cast<int>(i * static_cast<std::size_t>(mesh.tp) / places.size());
  }
  return rank_of;
}

// The most rows that one rank sends to another's experts.
std::int64_t fullest(const std::vector<std::int32_t>& chosen, const std::vector<int>& rank_of,
                     std::int64_t experts_of_rank) {
  const std::size_t k = chosen.size() / rank_of.size();
  std::map<std::pair<int, std::int64_t>, std::int64_t> rows;
  std::int64_t most = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i)
    most = std::max(most, ++rows[{rank_of[i / k], chosen[i] / experts_of_rank}]);
  return most;
}

}  // namespace

std::optional<TightBuffer> tight_buffer(const Subject& subject, const ParallelLayout& layout,
                                        const Choices& choices) {
  const MeshShape& mesh = layout.mesh;
  if (layout.expert_buffer <= 0 || mesh.ep == 1) return std::nullopt;
  const std::vector<int> rank_of = holders(subject.batch, mesh);
  const std::int64_t tokens = static_cast<std::int64_t>(rank_of.size()) / (mesh.cp * mesh.tp);
  TightBuffer tight;
  std::int64_t most = 0;
  std::int64_t all = 0;
  for (std::size_t layer = 0; layer < subject.spec.layers.size(); ++layer)
    for (const CellSpec& cell : subject.spec.layers[layer]) {
      const auto* moe = std::get_if<MoeSpec>(&cell.body);
      if (moe == nullptr) continue;
      all = tokens * moe->top_k;
      const std::string name = "layers." + std::to_string(layer) + ".ffn";
      for (std::int64_t m = 0; m < subject.steps * subject.batch.microbatches(); ++m) {
        const std::int64_t rows = fullest(choices.at({name, m}), rank_of, moe->experts / mesh.ep);
        most = std::max(most, rows);
        if (m >= subject.batch.microbatches() || rows <= tight.rows) continue;
        tight.rows = rows;
        tight.layer = name;
      }
    }
  // Half a row less than whole, so that rounding up gives just as many.
  const auto factor = [&](std::int64_t rows) {
    return (static_cast<double>(rows) - 0.5) * mesh.ep / static_cast<double>(all);
  };
  tight.factor = factor(most);
  tight.first = factor(tight.rows);
  if (tight.rows > 1) tight.below = factor(tight.rows - 1);
  return tight;
}

std::string overflow_fault(const Subject& subject, const ParallelLayout& layout, const TightBuffer& tight,
                           const Choices& choices, const Place& place) {
  if (!tight.below) return "";
  Subject once = subject;
  once.steps = 1;
  ParallelLayout small = layout;
  small.expert_buffer = *tight.below;
  const Record record = run(once, small, &choices, place);
  if (record.overflows.empty())
    return fmt::format("{} rows come to a buffer for {}, and nothing is said of it", tight.rows,
                       tight.rows - 1);
  const std::string expected = fmt::format("{}: one rank has {} rows", tight.layer, tight.rows);
  if (std::ssize(record.overflows) != layout.mesh.ranks())
    return fmt::format("{} of {} ranks say that a buffer lacks room", record.overflows.size(),
                       layout.mesh.ranks());
  for (const std::string& text : record.overflows)
    if (!text.starts_with(expected)) return fmt::format("'{}' is said where {}", text, expected);
  for (const auto& [name, whole] : record.weights)
    if (whole.values != record.first_weights.at(name).values)
      return fmt::format("a buffer lacks room, and {} moves all the same", name);
  return "";
}

}  // namespace tessera::verify
