// Llama and Qwen3 dense: pre-norm decoders of attention and gated FFN cells that differ in numbers and
// switches.
#pragma once

#include "core/models/family.h"

namespace tessera {

Family llama_family();
Family qwen3_family();

}  // namespace tessera
