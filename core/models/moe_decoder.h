// Qwen3-MoE and Mixtral: decoders whose FFNs are mixtures of experts.
#pragma once

#include "core/models/family.h"

namespace tessera {

Family qwen3_moe_family();
Family mixtral_family();

}  // namespace tessera
