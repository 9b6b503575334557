// Import: a Hugging Face directory becomes a checkpoint to continue from.
#pragma once

#include <filesystem>

#include "checkpoint/model_source.h"

namespace tessera {

struct ImportOptions {
  bool allow_nonfinite = false;  // takes weights that are NaN or infinite
  bool force = false;            // goes beside what `to` holds, unless that is checkpoints
};

// Reads `source`, a release, and saves its weights, in fp32, as step 0 in the directory `to`, with the
// config, the release's dtype and every file that is carried along (tokenizer, chat template, licence).
// Throws Error for a tensor that is missing, unknown or of another shape, for a weight that is not finite,
// for a JSON file that is none, or if `to` already holds something but an earlier import, which is replaced;
// then nothing is left behind. Returns the checkpoint's path.
std::filesystem::path import_release(const ModelSource& source, const std::filesystem::path& to,
                                     const ImportOptions& options = {});

}  // namespace tessera
