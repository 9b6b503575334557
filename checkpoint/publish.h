// Publish: a checkpoint becomes a Hugging Face release whose logits are proven equal to its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/base/dtype.h"

namespace tessera {

class Device;
class ModelSource;

struct PublishOptions {
  std::filesystem::path to;    // absent, an empty directory, or a release of Tessera's, which is replaced
  bool force = false;          // replace any directory that holds files alone
  std::optional<DType> dtype;  // f32, bf16 or f16; absent: the checkpoint's own
  std::uint64_t max_shard_bytes = 5'000'000'000;
  std::optional<std::int64_t> end_of_text;  // eos_token_id where the checkpoint's config has none
  std::string license;                      // for the model card; empty: what an import brought, or none
};

struct Published {
  DType dtype = DType::f32;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;  // of the weights
  int shards = 0;
  bool has_tokenizer = false;
};

// Writes safetensors (with an index where there are several), config.json, generation_config.json, tokenizer
// files, README.md and SHA256SUMS in a new directory beside `to`, reads them back, and compares every weight,
// and the logits of fixed pseudo-random tokens, with those of the source's weights rounded to the same dtype,
// through the same kernels on `device`. Only if all bits are equal does the directory appear under its name;
// else it throws Error and leaves nothing. The same checkpoint gives the same bytes.
Published publish(const ModelSource& source, const PublishOptions& options, Device& device);

// Throws Error with exit code usage unless publish() may write to options.to: told before a model is opened.
void check_destination(const PublishOptions& options);

// Whether a directory is a release as publish() left it: its SHA256SUMS lists all of its files and no other,
// each but the weights with its hash, and its README.md says who published it.
bool is_release_of_tessera(const std::filesystem::path& dir);

}  // namespace tessera
