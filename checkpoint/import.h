// Import: a Hugging Face directory becomes a checkpoint to continue from.
#pragma once

#include <filesystem>

namespace tessera {

// Reads the release in `dir` and saves its weights, in fp32, as step 0 in the directory `to`, with the
// config, the release's dtype and every file that is carried along (tokenizer, chat template, licence).
// Throws Error for a tensor that is missing, unknown or of another shape, or if `to` already holds something
// but an earlier import, which is replaced (with `force`, beside anything but checkpoints); then nothing is
// left behind. Returns the checkpoint's path.
std::filesystem::path import_release(const std::filesystem::path& dir, const std::filesystem::path& to,
                                     bool force = false);

}  // namespace tessera
