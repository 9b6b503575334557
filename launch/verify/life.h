// What a run does beside its steps, under a layout: reading data, counting targets, importing weights, saving
// and resuming, validating. The trainer's own functions do it, on a small model and files in a folder for the
// while; what must come of it is worked out here, plainly.
#pragma once

#include <optional>

#include "checkpoint/hf_config.h"
#include "launch/config/config.h"
#include "launch/verify/compare.h"

namespace tessera::verify {

// Two steps, a save, a validation, a third step; and the third step once more, resumed. `config` and
// `release` are the whole run's; sizes are the subject's. The first fault in that order, if there is one.
// Throws Error where the folder for temporary files cannot be written.
std::optional<Fault> live(const Config& config, const ReleaseConfig& release, const Subject& subject,
                          const ParallelLayout& layout, const Place& place = {});

}  // namespace tessera::verify
