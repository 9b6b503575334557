// What pre-norm decoders have in common: keys, tensor names, and the spec that they build, to which families
// add their switches. Internal to core/models; pure functions.
#pragma once

#include <vector>

#include "core/models/family.h"

namespace tessera {

// Values of a config with every key present. Throw Error (usage) naming the key at fault.
std::int64_t size_of(const Json& config, const char* key);
double positive(const Json& object, const char* key, const char* where);
bool flag(const Json& config, const char* key);

// Layers of attention and a gated FFN; `attention` brings the family's switches, sizes come from the config.
ModelSpec build_decoder(const Json& config, AttentionSpec attention, bool ffn_bias);

// Keys with the class defaults that differ.
std::vector<ConfigKey> common_keys(const char* vocab, const char* intermediate, const char* positions);
// Llama's names; `ffn`: those of a dense FFN too.
std::vector<TensorName> common_names(bool ffn = true);

}  // namespace tessera
