// A bigram model: the yardstick that says whether a network has learnt anything beyond neighbouring tokens.
#pragma once

#include "data/token_file.h"

namespace tessera {

// Mean −log p of `valid`'s tokens given the one before, in nats, within documents. Counts come from `train`:
// p(b|a) = (n(ab) + c q(b)) / (n(a) + c) with q(b) = (n(b) + 1) / (N + V) and c = 4 (Dirichlet smoothing
// towards the smoothed unigram q). Throws Error if the vocabularies differ.
double bigram_loss(const TokenFile& train, const TokenFile& valid);

}  // namespace tessera
