#include "launch/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/base/philox.h"

namespace tessera {

std::int32_t draw_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t index) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  std::vector<double> cumulative;
  double total = 0;
  const auto highest = static_cast<double>(*best);
  for (const std::int32_t id : order) {
    total +=
        std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - highest) / options.temperature);
    cumulative.push_back(total);
  }
  const auto kept = static_cast<std::size_t>(
      std::lower_bound(cumulative.begin(), cumulative.end(), options.top_p * total) - cumulative.begin());
  const double mass = cumulative[std::min(kept, cumulative.size() - 1)];
  const double at = static_cast<double>(uniform(Key(options.seed, "generate"), index)) * mass;
  const auto chosen = static_cast<std::size_t>(std::upper_bound(cumulative.begin(), cumulative.end(), at) -
                                               cumulative.begin());
  return order[std::min(chosen, order.size() - 1)];
}

}  // namespace tessera
