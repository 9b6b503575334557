#include "parallel/pipeline/split.h"

#include <cassert>
#include <limits>

#include "core/base/mutant.h"

namespace tessera {
namespace {

// Whether chunks of cost at most `limit` hold all layers, and how many each then takes, front to back, as
// many as it may.
bool fill(const SplitCosts& costs, int chunks, double limit, std::vector<std::int64_t>* counts) {
  const std::size_t layers = costs.layers.size();
  counts->clear();
  std::size_t at = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const bool last = chunk == chunks - 1;
    const auto left_for_others = static_cast<std::size_t>(chunks - 1 - chunk);
    double cost = (chunk == 0 ? costs.embedding : 0) + (last ? costs.head : 0);
    const std::size_t begin = at;
    while (at + left_for_others < layers && cost + costs.layers[at] <= limit) cost += costs.layers[at++];
    if (at == begin) return false;
    counts->push_back(static_cast<std::int64_t>(at - begin));
  }
  return at == layers;
}

}  // namespace

SplitCosts split_costs(const ModelSpec& spec, std::int64_t seq_len) {
  ModelSpec rest = spec;
  rest.layers.clear();
  SplitCosts costs;
  costs.head = flops_per_token(rest, seq_len);
  for (const LayerSpec& layer : spec.layers) {
    rest.layers = {layer};
    costs.layers.push_back(flops_per_token(rest, seq_len) - costs.head);
  }
  // A row is copied and its gradient added: no FLOPs to speak of, but memory traffic.
  costs.embedding = 6.0 * static_cast<double>(spec.hidden_size);
  return costs;
}

std::vector<std::int64_t> split_layers(const SplitCosts& costs, int chunks) {
  assert(costs.layers.size() >= static_cast<std::size_t>(chunks));
  if (chunks == 1) return {static_cast<std::int64_t>(costs.layers.size())};
  // The best limit is the cost of some run of layers; try them all, smallest that holds wins.
  const std::size_t n = costs.layers.size();
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> result;
  for (std::size_t begin = 0; begin < n; ++begin) {
    double run = begin == 0 ? costs.embedding : 0;
    for (std::size_t end = begin; end < n; ++end) {
      run += costs.layers[end];
      const double limit = (end == n - 1 ? run + costs.head : run) * (1 + 1e-12);
      if (limit < best && fill(costs, chunks, limit, &counts)) {
        best = limit;
        result = counts;
      }
    }
  }
  return result;
}

std::vector<ModelPart> pipeline_parts(const ModelSpec& spec, const std::vector<std::int64_t>& counts,
                                      const ModelPlace& place) {
  std::vector<ModelPart> parts;
  std::int64_t at = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto even = static_cast<std::int64_t>(spec.layers.size() * i / counts.size());
    const std::int64_t first = mutant("stages_cut_evenly") ? even : at;
    parts.push_back({first, first + counts[i], i == 0, i + 1 == counts.size(), place});
    at += counts[i];
  }
  assert(at == static_cast<std::int64_t>(spec.layers.size()));
  return parts;
}

}  // namespace tessera
