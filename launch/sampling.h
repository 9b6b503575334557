// Drawing a token from logits. Stateless; any thread.
#pragma once

#include <cstdint>
#include <span>

namespace tessera {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  double top_p = 1;        // among the fewest likely tokens whose probabilities reach this
  std::uint64_t seed = 0;
};

// The token for position `index` of the text: a pure function of its arguments. Among equals the lowest id is
// the likelier.
std::int32_t draw_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t index);

}  // namespace tessera
